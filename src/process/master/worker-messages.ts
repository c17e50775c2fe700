// Whether a message of a worker has what its type promises. User code runs there, perhaps with fewer rights than the
// master, and may write to the descriptor of the channel: what it writes must not end the master.

import type { FromChild } from '../messages.ts'

type Fields = Readonly<Record<string, unknown>>

/** Types without an entry have no fields that the master reads, or are none of a worker's. */
const CHECKS = new Map<string, (fields: Fields) => boolean>([
  ['ready', ({ memory }) => isNumber(memory)],
  ['report', ({ report }) => isObject(report) && isReport(report)],
  ['listen', ({ request, wanted }) => isNumber(request) && isObject(wanted) && isWantedSocket(wanted)],
  ['full', ({ isFull }) => typeof isFull === 'boolean'],
  ['connections', ({ rows, hasMore }) => Array.isArray(rows) && rows.every(isObject) && typeof hasMore === 'boolean'],
  ['idle', ({ isIdle }) => typeof isIdle === 'boolean'],
  ['relieved', ({ turn }) => isNumber(turn)],
  ['leaving', ({ exitCode, timeoutMs }) => isNumber(exitCode) && isNumber(timeoutMs)],
  ['reachKeeper', ({ request }) => isNumber(request)],
  ['stand', isCandidacy],
  ['resign', isCandidacy],
  ['failed', ({ exitCode, message }) => isNumber(exitCode) && typeof message === 'string'],
])

export function isWellFormed(message: FromChild): boolean {
  const isRight = CHECKS.get(message.type)
  return isRight === undefined || isRight({ ...message })
}

/** A worker of a later version may have other counters. */
function isReport({ counters, memory, timers, work, lagMs, utilization = 0 }: Fields): boolean {
  const numbers = [memory, timers, lagMs, utilization, ...(isObject(counters) ? Object.values(counters) : [null])]
  return numbers.every(isNumber) && typeof work === 'string'
}

function isWantedSocket({ address, nth, turn }: Fields): boolean {
  return typeof address === 'string' && [nth, turn].every((value) => value === undefined || isNumber(value))
}

function isCandidacy({ name, ticket }: Fields): boolean {
  return typeof name === 'string' && isNumber(ticket)
}

function isNumber(value: unknown): boolean {
  return typeof value === 'number'
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null
}
