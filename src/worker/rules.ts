// What the settings of Workers and clients must be: for each a test, and words for the error message.

import type { ClientSettingName } from '../client/async-tcp-connection.ts'
import type { DatagramSettingName } from '../client/async-udp-connection.ts'
import { UsageError, works } from '../errors.ts'
import { parseTarget } from '../net/address.ts'
import {
  ANY_STRING,
  check,
  FUNCTION_OR_NULL,
  isObject,
  isString,
  LIST_OF_STRINGS,
  NOT_NEGATIVE,
  numberFrom,
  oneOf,
  POSITIVE,
  type Rule,
  type Rules,
  rule,
  TRUE_OR_FALSE,
} from '../options.ts'
import { MOST_PROCESSES } from '../process/group.ts'
import { checkCallbackName, isCallback } from './callbacks.ts'
import type { SettingName } from './settings.ts'
import type { WorkerStatics } from './statics.ts'

/** Processes report each second, and a garbage collection or a machine short of CPU time must not end one. */
const SHORTEST_STUCK_MS = 5000

/**
 * Bytes, like the limit of a file name: the name stands in titles, log lines and labels, and HKDF accepts at most 1,024
 * bytes of `info` for a ticket key.
 */
const LONGEST_NAME = 255

const OF_DATAGRAMS = {
  maxSendBufferSize: POSITIVE,
  maxQueuedMessages: POSITIVE,
  maxDatagramsInFlight: POSITIVE,
} satisfies Record<DatagramSettingName, Rule>
/** Settings of connections, accepted or opened. */
const OF_STREAMS = {
  maxPackageSize: POSITIVE,
  maxSendBufferSize: POSITIVE,
  maxInFlight: POSITIVE,
  maxQueuedMessages: POSITIVE,
  idleTimeoutMs: NOT_NEGATIVE,
} satisfies Partial<Record<SettingName & ClientSettingName, Rule>>

export const RULES = {
  ...OF_STREAMS,
  ...OF_DATAGRAMS,
  name: rule(
    (value) => isString(value) && Buffer.byteLength(value) <= LONGEST_NAME,
    `a string of at most ${LONGEST_NAME} bytes`,
  ),
  count: rule(isCount, `a number up to ${MOST_PROCESSES}`),
  backlog: numberFrom(1, Number.MAX_VALUE),
  maxConnections: POSITIVE,
  maxConnectionsPerIp: NOT_NEGATIVE,
  acceptRate: NOT_NEGATIVE,
  proxyProtocol: rule(
    (value) => value === null || (isObject(value) && Array.isArray(Reflect.get(value, 'from'))),
    `{ from: ['10.0.0.0/8'] }`,
  ),
  startTimeoutMs: NOT_NEGATIVE,
  crashLoopAfter: POSITIVE,
  maxRequests: NOT_NEGATIVE,
  maxMemory: NOT_NEGATIVE,
  maxLifetimeMs: NOT_NEGATIVE,
  stuckTimeoutMs: rule(
    (value) => value === 0 || (typeof value === 'number' && value >= SHORTEST_STUCK_MS),
    `0, or a number from ${SHORTEST_STUCK_MS} on`,
  ),
  drainTimeoutMs: NOT_NEGATIVE,
  minReady: NOT_NEGATIVE,
  user: ANY_STRING,
  group: ANY_STRING,
  transport: oneOf('tcp', 'ssl', 'udp'),
  ssl: rule((value) => value === null || isObject(value), 'an object'),
  serial: TRUE_OR_FALSE,
  maxMailboxMessages: POSITIVE,
  maxMailboxBytes: POSITIVE,
  mailboxTimeoutMs: NOT_NEGATIVE,
  reloadable: TRUE_OR_FALSE,
  reusePort: TRUE_OR_FALSE,
  reloadMode: oneOf('start-first', 'stop-first'),
  execArgv: LIST_OF_STRINGS,
} satisfies Record<SettingName, Rule>

/** Properties that can be assigned: everything but methods, and `engine`, which checks itself. */
type StaticName = {
  [Name in keyof typeof WorkerStatics]: (typeof WorkerStatics)[Name] extends (...args: never[]) => unknown
    ? never
    : Name
}[Exclude<keyof typeof WorkerStatics, 'prototype' | 'engine'>]

export const STATIC_RULES = {
  onMasterReload: FUNCTION_OR_NULL,
  onMasterStop: FUNCTION_OR_NULL,
  onWorkerExit: FUNCTION_OR_NULL,
  stopTimeout: NOT_NEGATIVE,
  logFile: ANY_STRING,
  stdoutFile: ANY_STRING,
  pidFile: ANY_STRING,
  logFileMaxSize: numberFrom(0, Number.MAX_VALUE),
  unhandledRejection: oneOf('exit', 'log'),
  health: ANY_STRING,
  stopDelayMs: NOT_NEGATIVE,
} satisfies Record<StaticName, Rule>

/** Secret, since a URL of a proxy may contain a password. */
const PROXY: Rule = {
  ...rule(
    (value) => value === '' || (isString(value) && works(() => parseTarget(`tcp://${value}`, 1))),
    'host:port, without http:// or a name and password (which have options of their own)',
  ),
  isSecret: true,
}

/** Settings of a stream client. */
export const CLIENT_RULES = {
  ...OF_STREAMS,
  connectTimeoutMs: NOT_NEGATIVE,
  lingerTimeout: NOT_NEGATIVE,
  transport: oneOf('tcp', 'ssl'),
  ssl: rule(isObject, 'an object'),
  proxySocks5: PROXY,
  proxySocks5Username: ANY_STRING,
  proxySocks5Password: { ...ANY_STRING, isSecret: true },
  proxyHttp: PROXY,
  proxyAuthorization: {
    ...rule((value) => isString(value) && !/[\r\n\0]/.test(value), 'a string of one line'), // RFC 9110 section 5.5
    isSecret: true,
  },
} satisfies Record<ClientSettingName, Rule>

export const DATAGRAM_CLIENT_RULES: Rules = OF_DATAGRAMS

/** Undefined leaves the default. Throws UsageError. */
export function checkClient(settings: object, rules: Rules): void {
  for (const [key, value] of Object.entries(settings)) {
    if (isCallback(key)) checkCallbackName('a connection', key)
    const known = isCallback(key) ? FUNCTION_OR_NULL : Object.hasOwn(rules, key) ? rules[key] : undefined
    if (known === undefined) throw new UsageError('ERR_UNKNOWN_OPTION', `a connection has no option '${key}'`)
    if (value !== undefined) check(`${key} of a client`, value, known)
  }
}

/** Below 1 is 1, as in Workerman. */
function isCount(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value) && value <= MOST_PROCESSES
}
