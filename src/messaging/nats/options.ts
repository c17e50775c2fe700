// What a Cluster takes besides its name, checked and with its defaults.

import { hostname } from 'node:os'
import {
  checkOptions,
  integerFrom,
  isListOfStrings,
  isObject,
  isString,
  NOT_NEGATIVE,
  POSITIVE,
  type Rule,
  rule,
} from '../../options.ts'
import { withCredentials } from './credentials.ts'
import { isName, LONGEST_NAME } from './headers.ts'

/** Options of `connect()` of @nats-io/transport-node: `servers`, `user`, `pass`, `token`, `authenticator`, `tls`. */
export type NatsOptions = Readonly<object>

/** What a Cluster takes besides its name. Wrong ones are ERR_UNKNOWN_OPTION and ERR_BAD_OPTION. */
export interface ClusterOptions {
  /**
   * Where NATS is: `nats://10.0.0.5:4222`, several of them, or the options of `connect()` of @nats-io/transport-node.
   * `nats://user:password@host` and `nats://token@host` say as whom, percent-encoded; several must say the same.
   * Default: `nats://127.0.0.1:4222`.
   */
  nats?: string | readonly string[] | NatsOptions | undefined
  /** The name of this server, which no other server of the cluster has. Default: the host's name. */
  server?: string | undefined
  /** How many messages of a process may be unsettled; beyond it they are refused. Default: 65,536. */
  maxPendingMessages?: number | undefined
  /** How many bytes of such messages may be unsettled. Default: 16 MiB. */
  maxPendingBytes?: number | undefined
  /** How long a message waits for a connection to NATS, in ms. Default: 10,000. */
  waitMs?: number | undefined
  /** How long the handling of a message sent to a worker may take before its sender is told, in ms. Default: 30,000. */
  sendTimeoutMs?: number | undefined
}

/** With defaults. */
export interface ClusterSettings
  extends Required<{ [K in keyof ClusterOptions]: Exclude<ClusterOptions[K], undefined> }> {
  readonly name: string
  readonly nats: NatsOptions
}

export const NAME = rule((value) => isString(value) && isName(value), `a name of at most ${LONGEST_NAME} bytes`)

const RULES = {
  nats: rule(
    (value) => isListed(isString(value) ? [value] : value) || isObject(value),
    'an address such as nats://10.0.0.5:4222, a list of them, or options for the NATS client',
  ),
  server: NAME,
  maxPendingMessages: integerFrom(1),
  maxPendingBytes: POSITIVE,
  waitMs: NOT_NEGATIVE,
  sendTimeoutMs: POSITIVE,
} satisfies Record<keyof ClusterOptions, Rule>

/** Throws UsageError. */
export function settingsOf(name: string, options: ClusterOptions): ClusterSettings {
  checkOptions('a Cluster', options, RULES)
  const { nats = 'nats://127.0.0.1:4222', server = hostname() } = options
  const { maxPendingMessages = 65_536, maxPendingBytes = 16_777_216 } = options
  const { waitMs = 10_000, sendTimeoutMs = 30_000 } = options
  const client = withCredentials(isString(nats) || isList(nats) ? { servers: nats } : nats)
  return { name, nats: client, server, maxPendingMessages, maxPendingBytes, waitMs, sendTimeoutMs }
}

function isList(value: unknown): value is readonly string[] {
  return isListOfStrings(value)
}

function isListed(value: unknown): boolean {
  return isList(value) && value.length > 0 && value.every((address) => address !== '')
}
