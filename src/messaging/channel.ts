// Channel: messages by subject, to all subscribers. Subjects, wildcards and queue groups are those of NATS.

import { UsageError } from '../errors.ts'
import { ANY_STRING, checkOptions, type Rule } from '../options.ts'
import type { Mesh } from './mesh.ts'
import { currentMesh, notAWorker } from './messaging.ts'
import { checkRequest, type RequestOptions, rejectLater } from './pending-request.ts'
import { checkSubject } from './subjects.ts'
import { type SubjectHandler, type Subscriber, subscriptions } from './subscriptions.ts'

/** What `Channel.subscribe` takes besides. Wrong ones are ERR_UNKNOWN_OPTION and ERR_BAD_OPTION. */
export interface SubscribeOptions {
  /** Each message goes to one of all subscribers with the same queue name, across processes. Default: none. */
  queue?: string | undefined
}

/** Result of `subscribe`; `using` unsubscribes automatically. */
export interface Subscription extends Disposable {
  /** As given to `subscribe`. */
  readonly subject: string
  /**
   * Resolves when every worker that publishes knows of the subscription (of a `Cluster`: when NATS does): what is
   * published afterwards arrives. In `onWorkerStart` it resolves at once, without that promise: nobody publishes to a
   * process that is not ready. Take a snapshot that publishes keep up to date in `onWorkerActive`.
   */
  readonly ready: Promise<void>
  /**
   * Ends the subscription: the handler is not called from now on. Idempotent. What is on its way to a member of a queue
   * fails at its publisher, as not handled, unless this process has another one.
   */
  unsubscribe(): void
}

const RULES = { queue: ANY_STRING } satisfies Record<keyof SubscribeOptions, Rule>

/** Messages by subject, between all workers of a server. */
export const Channel = {
  /**
   * Calls `handler(message, { subject, from, call })` for each message published on `subject`, where `*` stands for any
   * one token and `>` for one or more at the end. The returned value, or the value of its promise, answers a `request`,
   * unless it is undefined. Throws UsageError: ERR_BAD_SUBJECT, ERR_BAD_OPTION, ERR_UNKNOWN_OPTION.
   */
  subscribe(subject: string, handler: SubjectHandler, options: SubscribeOptions = {}): Subscription {
    const subscriber = checkSubscriber(subject, handler, options)
    const ready = subscriptions.add(subscriber)
    const unsubscribe = () => {
      if (!subscriber.isOver) subscriptions.delete(subscriber)
    }
    return { subject, ready, unsubscribe, [Symbol.dispose]: unsubscribe }
  },

  /**
   * Sends `message` (anything structuredClone() accepts) to every process that has a subscriber, this one included; for
   * one that restarts it waits, up to `mailboxTimeoutMs`. If a process is lost together with the message, does not come
   * in time, or has a full queue, `onSendFail` of its group is called. Returns false when the sender should stop until
   * `onWorkerBufferDrain`. Throws UsageError: ERR_BAD_SUBJECT, ERR_CANNOT_CLONE, ERR_MESSAGE_TOO_LARGE,
   * ERR_NOT_A_WORKER.
   */
  publish(subject: string, message: unknown): boolean {
    checkSubject(subject, false)
    return mesh().hub.publish(subject, message)
  },

  /**
   * Resolves with the first answer of a subscriber. Rejects with a PeerError (ERR_NO_RESPONDERS, at once if there is no
   * subscriber; ERR_REQUEST_TIMEOUT, ERR_PEER_LOST); with what a handler threw, if none answers; or with the signal's
   * reason.
   */
  async request<Reply = unknown>(subject: string, message: unknown, options: RequestOptions = {}): Promise<Reply> {
    try {
      checkSubject(subject, false)
      checkRequest(options)
      mesh()
    } catch (error) {
      return rejectLater(error)
    }
    return mesh().hub.request(subject, message, options) as Promise<Reply>
  },
}

/** The arguments of a `subscribe`, checked. Throws UsageError. */
export function checkSubscriber(subject: string, handler: SubjectHandler, options: SubscribeOptions): Subscriber {
  checkSubject(subject, true)
  checkOptions('subscribe', options, RULES)
  const { queue = '' } = options
  if (queue !== '') checkSubject(queue, false)
  if (typeof handler !== 'function') throw new UsageError('ERR_BAD_OPTION', 'subscribe needs a function')
  return { pattern: subject, queue, handler, isOver: false }
}

function mesh(): Mesh {
  const found = currentMesh()
  if (found === null) throw notAWorker()
  return found
}
