// Channel: messages by subject, to whoever listens. Subjects, wildcards and queue groups are NATS's.

import { checkOptions, UsageError } from '../errors.ts'
import type { Mesh } from './mesh.ts'
import { currentMesh } from './messaging.ts'
import { checkRequest, type RequestOptions } from './pending-request.ts'
import { checkSubject } from './subjects.ts'
import { type SubjectHandler, subscriptions } from './subscriptions.ts'

export interface SubscribeOptions {
  /** Of all subscribers that give the same name, in all processes, one gets each message. */
  queue?: string | undefined
}

/** What `subscribe` gives; `using` unsubscribes by itself. */
export interface Subscription extends Disposable {
  readonly subject: string
  /** Resolves when every worker that publishes knows of it: what is published afterwards comes here. */
  readonly ready: Promise<void>
  /** No handler is called from now on. Again: nothing happens. */
  unsubscribe(): void
}

const KNOWN_OPTIONS: Record<keyof SubscribeOptions, string> = { queue: '' }

export const Channel = {
  /**
   * Calls `handler(message, { subject, from, call })` for what is published on `subject`, where `*` is any one token and
   * `>` any that follow. What it returns, or its promise's value, answers a `request`, unless that is undefined. Throws
   * UsageError: ERR_BAD_SUBJECT.
   */
  subscribe(subject: string, handler: SubjectHandler, options: SubscribeOptions = {}): Subscription {
    checkSubject(subject, true)
    checkOptions('subscribe', options, KNOWN_OPTIONS)
    const { queue = '' } = options
    if (queue !== '') checkSubject(queue, false)
    if (typeof handler !== 'function') throw new UsageError('ERR_BAD_OPTION', 'subscribe needs a function')
    const subscriber = { pattern: subject, queue, handler, isOver: false }
    const ready = subscriptions.add(subscriber)
    const unsubscribe = () => {
      if (!subscriber.isOver) subscriptions.delete(subscriber)
    }
    return { subject, ready, unsubscribe, [Symbol.dispose]: unsubscribe }
  },

  /**
   * Sends what structuredClone() takes to every process in which somebody listens, this one too. A process that is lost
   * with it, or has too much already, is told to `onSendFail` of its group. `false`: wait a little. Throws UsageError.
   */
  publish(subject: string, message: unknown): boolean {
    checkSubject(subject, false)
    return mesh().hub.publish(subject, message)
  },

  /**
   * The first answer that a subscriber gives. Rejects with a PeerError (ERR_NO_RESPONDERS at once when nobody listens;
   * ERR_REQUEST_TIMEOUT, ERR_PEER_LOST), with what a handler threw when nobody has an answer, or the signal's reason.
   */
  async request<Reply = unknown>(subject: string, message: unknown, options: RequestOptions = {}): Promise<Reply> {
    checkSubject(subject, false)
    checkRequest(options)
    return mesh().hub.request(subject, message, options) as Promise<Reply>
  },
}

function mesh(): Mesh {
  const found = currentMesh()
  if (found === null)
    throw new UsageError('ERR_NOT_A_WORKER', 'messages go between worker processes: publish in onWorkerStart, or later')
  return found
}
