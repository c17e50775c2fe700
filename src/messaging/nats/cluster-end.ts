// A process's end of a Cluster: its connection, what it has sent, and what it listens to. A worker listens to four
// subjects: its group's, where each message goes to one worker; its group's, where each goes to all; its own; and the
// one of this very process, for what answers its messages: that from its start on, and it waits until the worker is
// ready. Where one worker is meant it is a member of a queue group, so that only one of the two processes of a worker
// which is being replaced gets a message. What is for all is for both: the old one may still serve clients.

import type { Msg, MsgHdrs } from '@nats-io/transport-node'
import { crypto } from '../../builtins.ts'
import { messageOf, PeerError, type SendError, UsageError } from '../../errors.ts'
import { LimitedLog, log } from '../../log.ts'
import { deadlines } from '../../loop/deadlines.ts'
import { nothing } from '../../nothing.ts'
import { isThenable } from '../../thenable.ts'
import type { Call } from '../call.ts'
import type { Subscription } from '../channel.ts'
import { lost } from '../failures.ts'
import type { Answers, Handler, Mailbox } from '../mailbox.ts'
import { type Bridge, type BridgeHost, guard, notAWorker } from '../messaging.ts'
import type { PendingRequest, RequestOptions } from '../pending-request.ts'
import { type RefHome, type Way, WorkerRef } from '../references.ts'
import { limitsOf, Room } from '../room.ts'
import { Stay } from '../stay.ts'
import { logThrown, type Subscriber } from '../subscriptions.ts'
import { Undelivered } from '../undelivered.ts'
import { type AnswersHost, NatsAnswers } from './answers.ts'
import { ClusterGroup, type ClusterHost } from './cluster-group.ts'
import {
  type Address,
  HEADERS_BYTES,
  isName,
  isToWorkers,
  readMessage,
  readSender,
  senderOf,
  senderText,
  workerSubject,
  writeFailure,
  writeHead,
} from './headers.ts'
import { encode } from './json.ts'
import { Letter } from './letter.ts'
import { type LinkHost, NatsLink } from './nats-link.ts'
import type { ClusterSettings, NatsOptions } from './options.ts'
import { Post } from './post.ts'

/** The user's. */
interface ClusterCallbacks {
  readonly onSendFail: ((error: SendError, message: unknown, to: string) => unknown) | null
  readonly onBufferDrain: (() => unknown) | null
}

type Listening = ReturnType<NatsLink['subscribe']>

/** How long a process that starts waits for NATS to know what it listens to. */
const PATIENCE_MS = 1000
/** Beyond it, the ways without a message under way are forgotten. */
const MOST_WAYS = 4096
/** Beyond it the cache starts over. */
const MOST_SENDERS = 4096
/** How long a process that leaves waits for NATS to take its answers. */
const LAST_ANSWERS_MS = 200
/** Subjects in one line of the log. */
const MOST_NAMED = 5
const HAS_LEFT = 'the process that was to handle it has left'
const DEFAULT_INBOX = '_INBOX'
const PROCESS_BYTES = 8

export class ClusterEnd implements Bridge, ClusterHost, AnswersHost, LinkHost {
  readonly #settings: ClusterSettings
  readonly #callbacks: ClusterCallbacks
  readonly #link: NatsLink
  readonly #post: Post
  readonly #groups = new Map<string, ClusterGroup>()
  readonly #ways = new Map<string, NatsWay>()
  /** By what they say of themselves. */
  readonly #senders = new Map<string, WorkerRef>()
  /** Its name among the processes of its worker. */
  readonly #process = crypto().randomBytes(PROCESS_BYTES).toString('hex')
  /** What this process says of itself; empty if it cannot be reached by name. */
  #sender = ''
  #usualHead: MsgHdrs | null = null
  readonly #listening = new Set<Listening>()
  /** The user's subscriptions, and what NATS knows of each: nothing before this process serves, or if it leaves. */
  readonly #subscribers = new Map<Subscriber, Listening | null>()
  #isServing = false
  #isLeaving = false
  #isSilent = false
  /** What answers this process by name before it serves. */
  readonly #early: { readonly answers: NatsAnswers; readonly message: unknown }[] = []
  readonly #troubles = new LimitedLog()
  readonly #stay = new Stay(() => this.#ending > 0 || this.#post.isBusy)
  #host: BridgeHost | null = null
  #mailbox: Mailbox | null = null
  /** For what has come and is not handled. */
  #room: Room | null = null
  /** How often it has stopped to listen, and something may still come. */
  #ending = 0
  readonly #isMine = (answers: Answers): answers is NatsAnswers =>
    answers instanceof NatsAnswers && answers.host === this

  constructor(settings: ClusterSettings, callbacks: ClusterCallbacks) {
    const { name, nats, maxPendingMessages, maxPendingBytes, waitMs } = settings
    this.#settings = settings
    this.#callbacks = callbacks
    this.#link = new NatsLink(`cluster ${name}`, nats, this)
    this.#post = new Post(this.#link, inboxOf(nats), {
      maxPendingMessages,
      maxPendingBytes,
      waitMs,
      onSendFail: (error, letter) => this.#tell(error, letter),
      onDrain: () => guard('onBufferDrain', () => this.#callbacks.onBufferDrain?.()),
      look: () => this.#stay.look(),
    })
  }

  get isConnected(): boolean {
    return this.#link.isUp
  }

  #tell(error: SendError, { message, to }: Letter): void {
    if (this.#host !== null) this.#host.counters.sendFail++
    const { onSendFail } = this.#callbacks
    if (!onSendFail) this.#troubles.log(`cluster ${this.#settings.name}: not sent: ${messageOf(error)}`)
    else guard('onSendFail', () => onSendFail(error, message, to))
  }

  // Sending

  group(name: string): ClusterGroup {
    const group = this.#groups.get(name) ?? new ClusterGroup(this, name)
    this.#groups.set(name, group)
    return group
  }

  wayTo(group: string, server: string, id: number, process: string): Way {
    const subject = this.#subjectOf(group, server, id, process)
    const present = this.#ways.get(subject)
    if (present !== undefined) return present
    if (this.#ways.size >= MOST_WAYS) for (const [key, { count }] of this.#ways) if (count === 0) this.#ways.delete(key)
    const way = new NatsWay(
      this,
      subject,
      server === '' ? `a worker of ${group}` : `worker ${group}:${id} on ${server}`,
    )
    this.#ways.set(subject, way)
    return way
  }

  pendingAt(group: string, server: string, id: number, process: string): number {
    return this.#ways.get(this.#subjectOf(group, server, id, process))?.count ?? 0
  }

  /**
   * @param server empty if NATS chooses the worker
   * @param process empty if it chooses the process
   */
  #subjectOf(group: string, server: string, id: number, process: string): string {
    if (server === '') return this.#subject('any', group)
    return process === '' ? this.#subject('to', server, group, id) : this.#subject('to', server, group, id, process)
  }

  /** @internal */
  send(way: NatsWay, message: unknown): boolean {
    return this.#post.send(this.#letter(way.to, way.subject, message, way, true), this.#settings.sendTimeoutMs)
  }

  /** @internal */
  ask(way: NatsWay, message: unknown, options: RequestOptions): PendingRequest {
    return this.#post.request(this.#letter(way.to, way.subject, message, way), options)
  }

  broadcast(group: string, message: unknown): boolean {
    return this.#post.publish(this.#letter(`all workers of ${group}`, this.#subject('all', group), message, null, true))
  }

  publish(subject: string, message: unknown): boolean {
    return this.#post.publish(this.#letter(subject, subject, message, null, true))
  }

  request(subject: string, message: unknown, options: RequestOptions): PendingRequest {
    return this.#post.request(this.#letter(subject, subject, message), options)
  }

  #letter(to: string, subject: string, message: unknown, way: NatsWay | null = null, isOneWay = false): Letter {
    if (this.#host === null) throw notAWorker()
    const { payload, isBytes } = encode(message)
    if (this.#link.isUp && payload.length + HEADERS_BYTES + this.#sender.length > this.maxPayload)
      throw new UsageError(
        'ERR_MESSAGE_TOO_LARGE',
        `${to}: ${payload.length} bytes; NATS takes ${this.maxPayload} with headers`,
      )
    return new Letter(to, subject, message, payload, this.#head(isBytes, isOneWay), way)
  }

  /** Most messages have the same head, which is written once. A request's says its time as well, so it is its own. */
  #head(isBytes: boolean, isOneWay: boolean): MsgHdrs {
    if (isBytes || !isOneWay) return this.#newHead(isBytes, isOneWay)
    this.#usualHead ??= this.#newHead(false, true)
    return this.#usualHead
  }

  #newHead(isBytes: boolean, isOneWay: boolean): MsgHdrs {
    const headers = this.newHeaders()
    writeHead(headers, this.#sender, isBytes, isOneWay)
    return headers
  }

  #subject(kind: 'any' | 'all' | 'to', ...names: readonly (string | number)[]): string {
    return workerSubject(this.#settings.name, kind, names)
  }

  // Answering

  get maxPayload(): number {
    return this.#link.maxPayload
  }

  newHeaders(): MsgHdrs {
    return this.#link.headers()
  }

  reply(subject: string, payload: Uint8Array, headers: MsgHdrs | null): void {
    this.#post.answer(new Letter('an answer', subject, undefined, payload, headers, null))
  }

  done(bytes: number): void {
    this.#room?.give(bytes)
  }

  // Receiving

  /** A process that is not ready, and may never be, must take no message from those that are. */
  subscribe(subscriber: Subscriber): Subscription {
    this.#subscribers.set(subscriber, this.#isServing ? this.#hear(subscriber) : null)
    const ready = this.#isServing ? this.#link.ready() : Promise.resolve()
    const unsubscribe = () => this.#unsubscribe(subscriber)
    return { subject: subscriber.pattern, ready, unsubscribe, [Symbol.dispose]: unsubscribe }
  }

  #hear(subscriber: Subscriber): Listening | null {
    const { pattern, queue } = subscriber
    return this.#listen(pattern, queue, (message) => this.#deliver(subscriber, message))
  }

  /** Null if this process takes no such messages any more. */
  #listen(subject: string, queue: string, take: (message: Msg) => void): Listening | null {
    if (this.#isSilent || (this.#isLeaving && queue !== '')) return null
    const listening = this.#link.subscribe(subject, queue, take)
    this.#listening.add(listening)
    return listening
  }

  #unsubscribe(subscriber: Subscriber): void {
    subscriber.isOver = true
    const listening = this.#subscribers.get(subscriber) ?? null
    this.#subscribers.delete(subscriber)
    if (listening !== null && this.#listening.delete(listening)) void this.#link.unsubscribe(listening)
  }

  #deliver(subscriber: Subscriber, incoming: Msg): void {
    if (this.#mailbox === null) return
    const { handler } = subscriber
    const { subject } = incoming // what waits must not hold its headers, which nothing bounds
    const call: Handler = (from, message, call) =>
      subscriber.isOver ? this.#missed(subscriber, subject, call) : handler(message, { subject, from, call })
    this.#read(incoming, false, (answers, message) => {
      const { isRequest } = answers.call
      const handle = isRequest ? call : logging(call)
      if (isRequest && this.#post.awaits(incoming)) this.#mailbox?.run(answers, 0, message, answers.call, handle)
      else this.#mailbox?.take(answers, 0, message, answers.call, handle)
    })
  }

  /** It has unsubscribed while the message was on its way, or waited for its turn. Of a queue nobody else has it. */
  #missed({ queue }: Subscriber, subject: string, { isRequest }: Call): void {
    if (queue === '') return
    if (isRequest) throw new Undelivered(subject, false)
    const { name } = this.#settings
    this.#troubles.log(`cluster ${name}: dropped, on ${subject}: who it was for, of queue ${queue}, has unsubscribed`)
  }

  #receive(incoming: Msg): void {
    this.#read(incoming, true, (answers, message) => {
      if (this.#isServing) this.#mailbox?.take(answers, 0, message, answers.call)
      else this.#early.push({ answers, message })
    })
  }

  #read(incoming: Msg, isForOne: boolean, take: (answers: NatsAnswers, message: unknown) => void): void {
    const reply = isForOne || !isToWorkers(incoming.subject) ? (incoming.reply ?? '') : '' // others answer for workers
    if (this.#room?.isFree === false) return this.#refuse(incoming.subject, reply, isForOne, this.#room)
    let answers: NatsAnswers
    let message: unknown
    try {
      answers = new NatsAnswers(this, incoming, reply, this.#senderIn(incoming), isForOne)
      message = readMessage(incoming)
    } catch (error) {
      this.#troubles.log(`cluster ${this.#settings.name}: on ${incoming.subject}: ${messageOf(error)}`)
      return this.#turnDown(reply, error, false)
    }
    this.#room?.take(incoming.data.length)
    take(answers, message)
  }

  /**
   * NATS would send what is not read to nobody else, and answers come by the same connection: so everything is read,
   * and what there is no room for is dropped, as NATS's own clients do.
   * @param isForOne otherwise others may have it, too
   */
  #refuse(subject: string, reply: string, isForOne: boolean, { content }: Room): void {
    const why = `${content} wait for their turn or are being handled (maxMailboxMessages, maxMailboxBytes)`
    if (reply === '') this.#troubles.log(`cluster ${this.#settings.name}: dropped, on ${subject}: ${why}`)
    else this.#turnDown(reply, new PeerError('ERR_QUEUE_FULL', `${subject}: ${why}`, !isForOne), !isForOne)
  }

  /** A message that is not handled here: its sender may wait for an answer. */
  #turnDown(reply: string, error: unknown, mayHaveBeenHandled: boolean): void {
    if (reply === '') return
    const headers = this.newHeaders()
    this.reply(reply, writeFailure(headers, error, mayHaveBeenHandled, this.maxPayload), headers)
  }

  #senderIn(incoming: Msg): WorkerRef {
    const text = senderText(incoming)
    return this.#senders.get(text) ?? this.#newSender(text)
  }

  /** Kept by what we would write, which is short and no part of the headers: whatever else is in them may be large. */
  #newSender(text: string): WorkerRef {
    const sender = readSender(text)
    if (sender === null) return STRANGER
    const ref = this.#refTo(sender)
    if (this.#senders.size >= MOST_SENDERS) this.#senders.clear()
    this.#senders.set(senderOf(sender), ref)
    return ref
  }

  #refTo({ group, id, server, process }: Address): WorkerRef {
    return new ClusterGroup(this, group).reference(id, server, process)
  }

  // Life

  open(host: BridgeHost, mailbox: Mailbox): void {
    this.#host = host
    this.#mailbox = mailbox
    this.#room = new Room(limitsOf(host), NOBODY_WAITS)
    if (host.hasOwnName && isName(host.name)) {
      const { name, id } = host
      const { server } = this.#settings
      this.#sender = senderOf({ server, group: name, id, process: this.#process })
      this.#listenByName(this.#subject('to', server, name, id, this.#process), '') // it may be answered at once
    }
    this.#link.open()
  }

  async serve(): Promise<void> {
    const host = this.#host
    if (host === null) return
    this.#isServing = true
    const before = this.#listening.size
    for (const subscriber of this.#subscribers.keys()) this.#subscribers.set(subscriber, this.#hear(subscriber))
    if (host.workerHandler !== null) this.#hearByName(host)
    for (const { answers, message } of this.#early.splice(0)) this.#mailbox?.take(answers, 0, message, answers.call)
    if (this.#listening.size === before) return // what answers this process finds it: NATS reads a connection in order
    const patience = new Promise<void>((resolve) => deadlines.after(PATIENCE_MS, resolve))
    await Promise.race([this.#link.ready(), this.#link.failed, patience])
  }

  #hearByName(host: BridgeHost): void {
    if (this.#sender === '') return this.#explainSilence(host)
    this.#listenByName(this.#subject('any', host.name), 'any')
    this.#listenByName(this.#subject('all', host.name), '')
    this.#listenByName(this.#subject('to', this.#settings.server, host.name, host.id), 'one')
  }

  #listenByName(subject: string, queue: string): void {
    this.#listen(subject, queue, (message) => this.#receive(message))
  }

  #explainSilence({ name }: BridgeHost): void {
    const why = isName(name) ? 'another Worker has the same name' : 'its name is too long for a subject'
    log(`cluster ${this.#settings.name}: no messages come to '${name.slice(0, 64)}' by name: ${why}`)
  }

  leave(hold: () => () => void, isDeserted: boolean): void {
    this.#isLeaving = true
    this.#isSilent ||= isDeserted
    this.#stay.begin(hold)
    void this.#stopListening(({ queue }) => isDeserted || queue !== '')
  }

  silence(): void {
    this.#isSilent = true
    void this.#stopListening(() => true)
  }

  async #stopListening(isMeant: (one: Listening) => boolean): Promise<void> {
    const meant = [...this.#listening].filter(isMeant)
    for (const one of meant) this.#listening.delete(one)
    this.#ending++
    this.#stay.look()
    await Promise.all(meant.map((one) => this.#link.unsubscribe(one)))
    this.#ending--
    this.#stay.look()
  }

  /** With what has come and waits for its turn: nobody else has it. */
  get unsettled(): number {
    return this.#post.count + this.#early.length + (this.#mailbox?.waiting(this.#isMine).length ?? 0)
  }

  async tellLost(): Promise<void> {
    if (this.#dropWaiting()) await this.#untilAnswered()
    await this.#post.tellLost()
  }

  /** NATS has settled what was published, so this is where its loss is told. Returns whether there is anything. */
  #dropWaiting(): boolean {
    const early = this.#early.splice(0).map(({ answers }) => answers)
    const dropped = [...early, ...(this.#mailbox?.withdraw(this.#isMine) ?? [])]
    for (const answers of dropped) {
      answers.forget()
      answers.fail(0, lost(answers.subject, HAS_LEFT, false), false)
    }
    const untold = dropped.filter(({ isAwaited }) => !isAwaited)
    const subjects = [...new Set(untold.map(({ subject }) => subject))]
    const on = subjects.slice(0, MOST_NAMED).join(', ') + (subjects.length > MOST_NAMED ? ', ...' : '')
    if (untold.length > 0)
      log(`cluster ${this.#settings.name}: dropped, as this process leaves, on ${on}: ${untold.length} not begun`)
    return dropped.length > 0
  }

  /** NATS has the answers of this turn, or does not take them. */
  async #untilAnswered(): Promise<void> {
    const patience = new Promise<void>((resolve) => deadlines.after(LAST_ANSWERS_MS, resolve))
    await new Promise(setImmediate) // the post waits for its confirmation first
    await Promise.race([this.#link.flush(), patience])
  }

  close(): void {
    this.#dropWaiting()
    this.#post.close()
    this.#link.close()
  }

  tellRest(): void {
    this.#post.close()
  }

  up(): void {
    this.#post.up()
  }

  down(): void {
    this.#post.down()
  }

  forbidden(subject: string): void {
    this.#post.forbidden(subject)
  }
}

/** To one worker, or to whichever of a group NATS chooses. */
class NatsWay implements Way {
  readonly subject: string
  /** In words. */
  readonly to: string
  readonly #end: ClusterEnd
  count = 0

  constructor(end: ClusterEnd, subject: string, to: string) {
    this.#end = end
    this.subject = subject
    this.to = to
  }

  send(message: unknown): boolean {
    return this.#end.send(this, message)
  }

  request(message: unknown, options: RequestOptions): PendingRequest {
    return this.#end.ask(this, message, options)
  }
}

/** The sender of what another kind of program has published. */
const NOWHERE: RefHome = {
  name: '',
  server: '',
  wayTo() {
    throw new UsageError('ERR_UNKNOWN_WORKER', 'the sender is not a worker of the cluster')
  },
  pendingAt: () => 0,
}
const STRANGER = new WorkerRef(NOWHERE, -1)

/** Senders on other machines do not learn that there is room again. */
const NOBODY_WAITS = { onFull: nothing, onDrain: nothing }

/** A subscriber for a message that nobody awaits an answer to. */
function logging(handler: Handler): Handler {
  return (from, message, call) => {
    try {
      const result = handler(from, message, call)
      return isThenable(result) ? Promise.resolve(result).catch(logThrown) : result
    } catch (error) {
      logThrown(error)
      return undefined
    }
  }
}

function inboxOf(options: NatsOptions): string {
  const { inboxPrefix = DEFAULT_INBOX } = options as { inboxPrefix?: string }
  return `${inboxPrefix}.${crypto().randomBytes(16).toString('hex')}`
}
