// Limits of names, keys, values and times: checked by the worker before anything is sent, and again by the keeper.

import { quoted, UsageError } from '../errors.ts'
import { check, type Rule, rule } from '../options.ts'

/** Limit of an encoded value. Larger things belong in a file or a database: every process that reads one copies it. */
export const MAX_VALUE_BYTES = 1_048_576
const MAX_KEY_LENGTH = 1024
const MAX_NAME_LENGTH = 100
/** Limit of counters: a table with 16 bytes each. */
export const MAX_COUNTERS = 16_384
export const COUNTER_BYTES = MAX_COUNTERS * 16
/** Somewhat over a year; a longer time is more likely a mistake in the unit. */
const MAX_TTL_MS = 400 * 86_400_000

export function checkName(name: unknown): string {
  if (typeof name === 'string' && name !== '' && name.length <= MAX_NAME_LENGTH) return name
  throw new UsageError('ERR_SHARED_NAME', `shared data needs a name of 1 to ${MAX_NAME_LENGTH} characters`)
}

/** Prefix of internal map names, which users' maps may not have. */
const OURS = '#'
export const COUNTERS_MAP = `${OURS}counters`

export function checkMapName(name: unknown): string {
  const checked = checkName(name)
  if (!checked.startsWith(OURS)) return checked
  throw new UsageError('ERR_SHARED_NAME', `the name of a shared map does not begin with '${OURS}'`)
}

export function checkKey(key: unknown): string {
  if (typeof key === 'string' && key !== '' && key.length <= MAX_KEY_LENGTH) return key
  const given = typeof key === 'string' ? `one of ${key.length}` : typeof key
  throw new UsageError('ERR_SHARED_KEY', `a key is a string of 1 to ${MAX_KEY_LENGTH} characters, not ${given}`)
}

export const TTL: Rule = rule(
  (value) => typeof value === 'number' && value >= 0 && value <= MAX_TTL_MS,
  'milliseconds, 0 for ever, at most 400 days',
)

/** 0 is without limit. */
export function checkTtl(ttlMs: unknown): number {
  check('ttlMs', ttlMs, TTL, 'ERR_SHARED_TTL')
  return Number(ttlMs)
}

export function checkStep(step: unknown): number {
  if (typeof step === 'number' && Number.isFinite(step)) return step
  throw new UsageError('ERR_SHARED_STEP', `cannot add ${quoted(step)}: it must be a finite number`)
}
