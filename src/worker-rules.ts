// What the settings of a Worker must be: each as a test, and in words for who got it wrong.

import { UsageError } from './errors.ts'

/** Processes report each second, and a garbage collection, or a machine that is short of time, must not end one. */
const SHORTEST_STUCK_MS = 5000

/** What a setting must be, as a test and in words. */
interface Rule {
  readonly isRight: (value: unknown) => boolean
  readonly wanted: string
}

const ANY_STRING: Rule = { isRight: isString, wanted: 'a string' }
const TRUE_OR_FALSE: Rule = { isRight: (value) => typeof value === 'boolean', wanted: 'true or false' }
const POSITIVE = numberFrom(1, Number.POSITIVE_INFINITY)
const NOT_NEGATIVE = numberFrom(0, Number.POSITIVE_INFINITY)

const TRANSPORTS: readonly unknown[] = ['tcp', 'ssl', 'udp']

export const RULES: Record<string, Rule> = {
  name: ANY_STRING,
  count: numberFrom(-Number.MAX_VALUE, Number.MAX_VALUE),
  backlog: numberFrom(1, Number.MAX_VALUE),
  maxPackageSize: POSITIVE,
  maxSendBufferSize: POSITIVE,
  maxInFlight: POSITIVE,
  maxQueuedMessages: POSITIVE,
  maxConnections: POSITIVE,
  maxConnectionsPerIp: NOT_NEGATIVE,
  acceptRate: NOT_NEGATIVE,
  proxyProtocol: {
    isRight: (value) => value === null || (typeof value === 'object' && Array.isArray(Reflect.get(value, 'from'))),
    wanted: `{ from: ['10.0.0.0/8'] }`,
  },
  maxDatagramsInFlight: POSITIVE,
  idleTimeoutMs: NOT_NEGATIVE,
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

/** 0 is for ever; setTimeout cannot do more, and the master adds something. */
export const LONGEST_TIMEOUT_MS = 2_000_000_000

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

function numberFrom(least: number, most: number): Rule {
  const isRight = (value: unknown) => typeof value === 'number' && value >= least && value <= most
  return { isRight, wanted: least < 0 ? 'a number' : `a number from ${least} on` }
}

/** Throws UsageError. */
export function check(what: string, value: unknown, { isRight, wanted }: Rule): void {
  if (isRight(value)) return
  throw new UsageError('ERR_BAD_OPTION', `${what} is ${String(value)}: it must be ${wanted}`)
}

function isString(value: unknown): value is string {
  return typeof value === 'string'
}
