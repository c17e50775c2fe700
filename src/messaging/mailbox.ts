// Messages to this process: handlers start in the order in which messages arrive, each without waiting for the one
// before (a request from A to B to A would wait forever), unless the Worker is `serial`.

import { PeerError, stackOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { isThenable } from '../thenable.ts'
import { type Call, ONE_WAY } from './call.ts'
import type { WorkerRef } from './references.ts'
import { separation } from './separation.ts'
import { isStream, leaveUnasked } from './stream-source.ts'
import { Undelivered } from './undelivered.ts'

export type Handler = (from: WorkerRef, message: unknown, call: Call) => unknown

/** Owner of the mailbox: the Worker of this process. */
export interface MailboxHost {
  readonly name: string
  readonly id: number
  readonly serial: boolean
  /** Null when it takes no messages. */
  readonly workerHandler: Handler | null
  readonly counters: { messagesIn: number; handlerErrors: number }
  /** Counts unsettled handler promises: this process waits for them when it leaves. */
  working(change: 1 | -1): void
}

/** Where outcomes and answers go. */
export interface Answers {
  readonly from: WorkerRef
  handled(number: number): void
  answer(number: number, value: unknown): void
  fail(number: number, error: unknown, wasHandled: boolean): void
  stream(number: number, items: AsyncIterable<unknown>, call: Call): Promise<void>
  /** The message takes longer; `forget` is called when it has ended. */
  remember(number: number, call: Call): void
  forget(number: number): void
}

interface Task {
  readonly answers: Answers
  readonly number: number
  readonly message: unknown
  readonly call: Call
  /** Null for the Worker's. */
  readonly handler: Handler | null
}

/** How many started entries a queue keeps at its front before they are removed: moving the rest costs by its length. */
const MOST_BEGUN = 1024

export class Mailbox {
  readonly #host: MailboxHost
  /** Queue of a serial worker; entries from `#head` on have not started. */
  #queue: (Task | undefined)[] = []
  #head = 0
  #isBusy = false
  /** Callbacks to call when everything that has arrived has started. */
  readonly #waiting: (() => void)[] = []
  /** Handlers that have not settled, plus messages waiting to start. */
  load = 0

  constructor(host: MailboxHost) {
    this.#host = host
  }

  /** @param handler null for the Worker's */
  take(answers: Answers, number: number, message: unknown, call: Call, handler: Handler | null = null): void {
    this.#host.counters.messagesIn++
    if (this.#host.serial) this.queue({ answers, number, message, call, handler })
    else this.#start(answers, number, message, call, handler ?? this.#host.workerHandler, false)
  }

  /** Like `take`, but at once: a handler of a serial worker may wait for the answer. */
  run(answers: Answers, number: number, message: unknown, call: Call, handler: Handler): void {
    this.#host.counters.messagesIn++
    this.#start(answers, number, message, call, handler, false)
  }

  get isSerial(): boolean {
    return this.#host.serial
  }

  /** For a message that begins when all before it have settled. It is not counted as received. */
  queue(task: Task): void {
    this.load++
    if (task.call !== ONE_WAY) task.answers.remember(task.number, task.call)
    this.#queue.push(task)
    this.#next()
  }

  /** Calls back when everything that has arrived has started. */
  whenBegun(tell: () => void): void {
    if (this.#head === this.#queue.length) tell()
    else this.#waiting.push(tell)
  }

  /** The outcomes of what waits for its turn, of the kind that `isMeant` says. */
  waiting<T extends Answers>(isMeant: (answers: Answers) => answers is T): T[] {
    return this.#queue.slice(this.#head).flatMap((task) => (task && isMeant(task.answers) ? task.answers : []))
  }

  /** The same, and it does not begin any more: what becomes of it is the caller's to say. */
  withdraw<T extends Answers>(isMeant: (answers: Answers) => answers is T): T[] {
    const withdrawn = this.waiting(isMeant)
    this.#queue = this.#queue.slice(this.#head).filter((task) => task && !isMeant(task.answers))
    this.#head = 0
    this.load -= withdrawn.length
    this.#tellBegun()
    return withdrawn
  }

  #next(): void {
    while (!this.#isBusy) {
      const task = this.#queue[this.#head]
      if (task === undefined) break
      this.#queue[this.#head] = undefined
      if (++this.#head === this.#queue.length || this.#head === MOST_BEGUN) {
        this.#queue = this.#queue.slice(this.#head)
        this.#head = 0
      }
      this.load--
      const { answers, number, message, call, handler } = task
      if (call !== ONE_WAY) answers.forget(number)
      this.#start(answers, number, message, call, handler ?? this.#host.workerHandler, true)
    }
    this.#tellBegun()
  }

  #tellBegun(): void {
    if (this.#head === this.#queue.length) for (const tell of this.#waiting.splice(0)) tell()
  }

  /** @param isNext whether further messages of a serial worker wait for this one */
  #start(
    answers: Answers,
    number: number,
    message: unknown,
    call: Call,
    handler: Handler | null,
    isNext: boolean,
  ): void {
    if (handler === null) return answers.fail(number, this.#noHandler(), false)
    if (call.isAborted || call.hasExpired) return answers.fail(number, expired(), false)
    try {
      const result = separation.handle(handler, answers.from, message, call)
      if (isThenable(result)) void this.#wait(answers, number, result, call, isNext)
      else if (call.isRequest && isStream(result))
        void this.#wait(answers, number, Promise.resolve(result), call, isNext)
      else settle(answers, number, result, call)
    } catch (error) {
      this.#threw(answers, number, error, call)
    }
  }

  async #wait(
    answers: Answers,
    number: number,
    promise: PromiseLike<unknown>,
    call: Call,
    isNext: boolean,
  ): Promise<void> {
    this.load++
    this.#isBusy ||= isNext
    this.#host.working(1)
    if (call.isRequest) answers.remember(number, call)
    try {
      const result = await promise
      if (call.isRequest && isStream(result)) await answers.stream(number, result, call)
      else settle(answers, number, result, call)
    } catch (error) {
      this.#threw(answers, number, error, call)
    }
    if (call.isRequest) answers.forget(number)
    this.load--
    this.#host.working(-1)
    if (!isNext) return
    this.#isBusy = false
    this.#next()
  }

  /** A request's error goes to its sender, a message's to the log. */
  #threw(answers: Answers, number: number, error: unknown, call: Call): void {
    if (error instanceof Undelivered) return answers.fail(number, error.reason, error.reason.mayHaveBeenHandled)
    this.#host.counters.handlerErrors++
    if (call.isRequest) return answers.fail(number, error, true)
    errors.log(`onWorkerMessage: ${stackOf(error)}`)
    answers.handled(number)
  }

  #noHandler(): PeerError {
    const { name, id } = this.#host
    return new PeerError('ERR_NO_HANDLER', `worker ${name}:${id} has no onWorkerMessage`, false)
  }
}

const errors = new LimitedLog()

/** @param result no stream, if it is an answer */
function settle(answers: Answers, number: number, result: unknown, call: Call): void {
  if (call.isRequest) return answers.answer(number, result)
  leaveUnasked(result)
  answers.handled(number)
}

function expired(): PeerError {
  return new PeerError('ERR_REQUEST_TIMEOUT', 'nobody waited for the answer any more: not started', false)
}
