// What comes to this process: handlers begin in the order in which messages arrive, each without waiting for the one
// before (a request from A to B to A would wait for ever), unless the Worker is `serial`.

import { PeerError, stackOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { isThenable } from '../protocol.ts'
import { type Call, ONE_WAY } from './call.ts'

export type Handler = (from: unknown, message: unknown, call: Call) => unknown

/** Whose mailbox it is: the Worker of this process. */
export interface MailboxHost {
  readonly name: string
  readonly id: number
  readonly serial: boolean
  /** Null when it takes no messages. */
  readonly workerHandler: Handler | null
  readonly counters: { messagesIn: number; handlerErrors: number }
  /** A handler's promise is waited for when this process leaves. */
  working(change: 1 | -1): void
}

/** Where the answer goes. */
export interface Answers {
  readonly from: unknown
  handled(number: number): void
  answer(number: number, value: unknown): void
  fail(number: number, error: unknown, wasHandled: boolean): void
  stream(number: number, items: AsyncIterable<unknown>, call: Call): Promise<void>
  /** It takes longer: `forget` when it has ended. */
  remember(number: number, call: Call): void
  forget(number: number): void
}

interface Task {
  readonly answers: Answers
  readonly number: number
  readonly message: unknown
  readonly call: Call
}

/** Places of a queue that are kept although what stood there has begun: moving up costs by what is left. */
const MOST_BEGUN = 1024

export class Mailbox {
  readonly #host: MailboxHost
  /** Of a serial worker: from `#head` on. */
  #queue: (Task | undefined)[] = []
  #head = 0
  #isBusy = false
  /** Asked to tell when nothing that has arrived is still to begin. */
  readonly #waiting: (() => void)[] = []
  /** Handlers that have not settled, and messages that wait for them. */
  load = 0

  constructor(host: MailboxHost) {
    this.#host = host
  }

  take(answers: Answers, number: number, message: unknown, call: Call): void {
    this.#host.counters.messagesIn++
    if (!this.#host.serial) return this.#start(answers, number, message, call, this.#host.workerHandler, false)
    this.load++
    if (call !== ONE_WAY) answers.remember(number, call)
    this.#queue.push({ answers, number, message, call })
    this.#next()
  }

  /** As `take`, for another handler than the Worker's, and at once. */
  run(answers: Answers, number: number, message: unknown, call: Call, handler: Handler): void {
    this.#host.counters.messagesIn++
    this.#start(answers, number, message, call, handler, false)
  }

  /** Calls back when all that has arrived has begun. */
  whenBegun(tell: () => void): void {
    if (this.#head === this.#queue.length) tell()
    else this.#waiting.push(tell)
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
      if (task.call !== ONE_WAY) task.answers.forget(task.number)
      this.#start(task.answers, task.number, task.message, task.call, this.#host.workerHandler, true)
    }
    if (this.#head === this.#queue.length) for (const tell of this.#waiting.splice(0)) tell()
  }

  /** @param isNext whether those of a serial worker that follow wait for it */
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
      const result = handler(answers.from, message, call)
      if (isThenable(result)) void this.#wait(answers, number, result, call, isNext)
      else if (call.isRequest && isStream(result))
        void this.#wait(answers, number, Promise.resolve(result), call, isNext)
      else if (call.isRequest) answers.answer(number, result)
      else answers.handled(number)
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
      else if (call.isRequest) answers.answer(number, result)
      else answers.handled(number)
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

  /** The sender of a request hears of it; of a message the log does. */
  #threw(answers: Answers, number: number, error: unknown, call: Call): void {
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

function expired(): PeerError {
  return new PeerError('ERR_REQUEST_TIMEOUT', 'nobody waited for the answer any more: not started', false)
}

/** An async iterable; a string or an array is a value. */
export function isStream(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value
}
