// What the settings of Workers and clients must be: for each a test, and words for the error message.

import { UsageError } from '../errors.ts'

/** Processes report each second, and a garbage collection or a machine short of CPU time must not end one. */
const SHORTEST_STUCK_MS = 5000

/**
 * Bytes, like the limit of a file name: the name stands in titles, log lines and labels, and HKDF accepts at most 1,024
 * bytes of `info` for a ticket key.
 */
const LONGEST_NAME = 255

/** What a setting must be, as a test and in words. */
interface Rule {
  readonly isRight: (value: unknown) => boolean
  readonly wanted: string
  /** Its value must not appear in an error. */
  readonly isSecret?: boolean
}

const ANY_STRING: Rule = { isRight: isString, wanted: 'a string' }
const TRUE_OR_FALSE: Rule = { isRight: (value) => typeof value === 'boolean', wanted: 'true or false' }
const POSITIVE = numberFrom(1, Number.POSITIVE_INFINITY)
const NOT_NEGATIVE = numberFrom(0, Number.POSITIVE_INFINITY)

const TRANSPORTS: readonly unknown[] = ['tcp', 'ssl', 'udp']

const OF_DATAGRAMS = { maxSendBufferSize: POSITIVE, maxQueuedMessages: POSITIVE, maxDatagramsInFlight: POSITIVE }
/** Settings of connections, accepted or opened. */
const OF_STREAMS = {
  maxPackageSize: POSITIVE,
  maxSendBufferSize: POSITIVE,
  maxInFlight: POSITIVE,
  maxQueuedMessages: POSITIVE,
  idleTimeoutMs: NOT_NEGATIVE,
}

export const RULES: Record<string, Rule> = {
  ...OF_STREAMS,
  ...OF_DATAGRAMS,
  name: {
    isRight: (value) => isString(value) && Buffer.byteLength(value) <= LONGEST_NAME,
    wanted: `a string of at most ${LONGEST_NAME} bytes`,
  },
  count: numberFrom(-Number.MAX_VALUE, Number.MAX_VALUE),
  backlog: numberFrom(1, Number.MAX_VALUE),
  maxConnections: POSITIVE,
  maxConnectionsPerIp: NOT_NEGATIVE,
  acceptRate: NOT_NEGATIVE,
  proxyProtocol: {
    isRight: (value) => value === null || (typeof value === 'object' && Array.isArray(Reflect.get(value, 'from'))),
    wanted: `{ from: ['10.0.0.0/8'] }`,
  },
  startTimeoutMs: NOT_NEGATIVE,
  crashLoopAfter: POSITIVE,
  maxRequests: NOT_NEGATIVE,
  maxMemory: NOT_NEGATIVE,
  maxLifetimeMs: NOT_NEGATIVE,
  stuckTimeoutMs: {
    isRight: (value) => value === 0 || (typeof value === 'number' && value >= SHORTEST_STUCK_MS),
    wanted: `0, or a number from ${SHORTEST_STUCK_MS} on`,
  },
  drainTimeoutMs: NOT_NEGATIVE,
  minReady: NOT_NEGATIVE,
  user: ANY_STRING,
  group: ANY_STRING,
  transport: { isRight: (value) => TRANSPORTS.includes(value), wanted: `'tcp', 'ssl' or 'udp'` },
  ssl: { isRight: (value) => typeof value === 'object' && !Array.isArray(value), wanted: 'an object' },
  serial: TRUE_OR_FALSE,
  maxMailboxMessages: POSITIVE,
  maxMailboxBytes: POSITIVE,
  mailboxTimeoutMs: NOT_NEGATIVE,
  reloadable: TRUE_OR_FALSE,
  reusePort: TRUE_OR_FALSE,
  reloadMode: {
    isRight: (value) => value === 'start-first' || value === 'stop-first',
    wanted: `'start-first' or 'stop-first'`,
  },
  execArgv: { isRight: (value) => Array.isArray(value) && value.every(isString), wanted: 'a list of strings' },
}

const FUNCTION_OR_NULL: Rule = {
  isRight: (value) => value === null || typeof value === 'function',
  wanted: 'a function, or null',
}

export const STATIC_RULES: Record<string, Rule> = {
  onMasterReload: FUNCTION_OR_NULL,
  onMasterStop: FUNCTION_OR_NULL,
  onWorkerExit: FUNCTION_OR_NULL,
  stopTimeout: NOT_NEGATIVE,
  logFile: ANY_STRING,
  stdoutFile: ANY_STRING,
  pidFile: ANY_STRING,
  logFileMaxSize: numberFrom(0, Number.MAX_VALUE),
  unhandledRejection: { isRight: (value) => value === 'exit' || value === 'log', wanted: `'exit' or 'log'` },
  health: ANY_STRING,
  stopDelayMs: NOT_NEGATIVE,
}

/** Settings of a stream client. */
export const CLIENT_RULES: Record<string, Rule> = {
  ...OF_STREAMS,
  connectTimeoutMs: NOT_NEGATIVE,
  lingerTimeout: NOT_NEGATIVE,
  transport: { isRight: (value) => value === 'tcp' || value === 'ssl', wanted: `'tcp' or 'ssl'` },
  ssl: {
    isRight: (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
    wanted: 'an object',
  },
  proxySocks5: ANY_STRING,
  proxySocks5Username: ANY_STRING,
  proxySocks5Password: { ...ANY_STRING, isSecret: true },
  proxyHttp: ANY_STRING,
  proxyAuthorization: {
    isRight: (value) => isString(value) && !/[\r\n\0]/.test(value), // RFC 9110 section 5.5
    wanted: 'a string of one line',
    isSecret: true,
  },
}

export const DATAGRAM_CLIENT_RULES: Record<string, Rule> = OF_DATAGRAMS

/** Undefined leaves the default. Throws UsageError. */
export function checkClient(settings: object, rules: Record<string, Rule>): void {
  for (const [key, value] of Object.entries(settings)) {
    const rule = /^on[A-Z]/.test(key) ? FUNCTION_OR_NULL : Object.hasOwn(rules, key) ? rules[key] : undefined
    if (rule === undefined) throw new UsageError('ERR_UNKNOWN_OPTION', `a connection has no option '${key}'`)
    if (value !== undefined) check(`${key} of a client`, value, rule)
  }
}

function numberFrom(least: number, most: number): Rule {
  const isRight = (value: unknown) => typeof value === 'number' && value >= least && value <= most
  return { isRight, wanted: least < 0 ? 'a number' : `a number from ${least} on` }
}

/** Throws UsageError. */
export function check(what: string, value: unknown, { isRight, wanted, isSecret = false }: Rule): void {
  if (isRight(value)) return
  throw new UsageError('ERR_BAD_OPTION', `${what} is ${isSecret ? 'wrong' : String(value)}: it must be ${wanted}`)
}

function isString(value: unknown): value is string {
  return typeof value === 'string'
}
