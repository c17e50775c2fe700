// Cluster: messages between workers on several machines, over NATS. The same calls as on one machine: subjects as with
// `Channel`, workers by the name of their group. Each worker process has one connection to NATS.

import type { SendError } from '../../errors.ts'
import { check } from '../../options.ts'
import { checkSubscriber, type SubscribeOptions, type Subscription } from '../channel.ts'
import { addBridge } from '../messaging.ts'
import { checkRequest, type RequestOptions, rejectLater } from '../pending-request.ts'
import { checkSubject } from '../subjects.ts'
import type { SubjectHandler } from '../subscriptions.ts'
import { ClusterEnd } from './cluster-end.ts'
import type { ClusterGroup } from './cluster-group.ts'
import { type ClusterOptions, NAME, settingsOf } from './options.ts'

/** Workers and subscribers on several servers that use the same NATS. Make it where Workers are declared. */
export class Cluster {
  /** Servers whose clusters have the same name belong together. */
  readonly name: string
  /** The name of this server in it. */
  readonly server: string
  /**
   * A message was refused, is not known to have been handled, or (a publish) not known to have reached NATS;
   * `error.mayHaveBeenHandled` is false if it is certain that nobody has handled it. `to` is the receiver in words. If
   * it is null, this is logged.
   */
  onSendFail: ((error: SendError, message: unknown, to: string) => unknown) | null = null
  /** What `publish`, `send` or `broadcast` returned false for is over. */
  onBufferDrain: (() => unknown) | null = null
  readonly #end: ClusterEnd

  /**
   * Opens nothing by itself: each worker process connects when it starts, and again when the connection ends. Throws
   * UsageError: ERR_BAD_OPTION, ERR_UNKNOWN_OPTION; ERR_NO_NATS without `npm install @nats-io/transport-node`.
   */
  constructor(name: string, options: ClusterOptions = {}) {
    check('the name of a Cluster', name, NAME)
    const settings = settingsOf(name, options)
    this.name = name
    this.server = settings.server
    this.#end = new ClusterEnd(settings, this)
    addBridge(this.#end)
  }

  /** Whether this process is connected to NATS now. */
  get isConnected(): boolean {
    return this.#end.isConnected
  }

  /** A group of workers, on all servers. */
  group(name: string): ClusterGroup {
    check('the name of a group', name, NAME)
    return this.#end.group(name)
  }

  /**
   * As `Channel.subscribe`: `handler(message, { subject, from, call })` for each message on the subject, whoever has
   * published it; other programs' messages must be JSON. The subject is NATS's own. `ready` resolves when NATS knows of
   * it, which it does when `onWorkerStart` has settled: before that, at once. Throws UsageError: ERR_BAD_SUBJECT,
   * ERR_BAD_OPTION, ERR_UNKNOWN_OPTION.
   */
  subscribe(subject: string, handler: SubjectHandler, options: SubscribeOptions = {}): Subscription {
    return this.#end.subscribe(checkSubscriber(subject, handler, options))
  }

  /**
   * Publishes JSON or bytes to every subscriber of the subject on every server, this process included. Returns false
   * when the sender should wait for `onBufferDrain`. Throws UsageError: ERR_BAD_SUBJECT, ERR_CANNOT_CLONE,
   * ERR_MESSAGE_TOO_LARGE, ERR_NOT_A_WORKER.
   */
  publish(subject: string, message: unknown): boolean {
    checkSubject(subject, false)
    return this.#end.publish(subject, message)
  }

  /**
   * Resolves with the first answer of a subscriber on any server; rejects with its error if that comes first
   * (RemoteError), a PeerError (ERR_NO_RESPONDERS at once if there is no subscriber, ERR_REQUEST_TIMEOUT,
   * ERR_PEER_LOST), or the signal's reason.
   */
  async request<Reply = unknown>(subject: string, message: unknown, options: RequestOptions = {}): Promise<Reply> {
    let request: { readonly promise: Promise<unknown> }
    try {
      checkSubject(subject, false)
      checkRequest(options)
      request = this.#end.request(subject, message, options)
    } catch (error) {
      return rejectLater(error)
    }
    return request.promise as Promise<Reply>
  }
}
