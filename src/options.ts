// Checks of every options object of the public API: known names, and values of the right type and range. In
// plain JavaScript nothing else reports a typo, or a string in place of a number. They run where an object is passed.

import { quoted, UsageError } from './errors.ts'

/** What a setting must be: a test, and advice in words. */
export interface Rule {
  readonly isRight: (value: unknown) => boolean
  /** Advice for the error message: `it must be a string`. */
  readonly advice: string
  /** The value never appears in an error. */
  readonly isSecret?: boolean
}

export type Rules = Readonly<Record<string, Rule>>

/** A rule whose advice is `it must be ...`. */
export function rule(isRight: (value: unknown) => boolean, wanted: string): Rule {
  return { isRight, advice: `it must be ${wanted}` }
}

/** Settings as a whole. */
export const SETTINGS = rule(isObject, 'an object')
export const ANY_STRING = rule(isString, 'a string')
export const TRUE_OR_FALSE = rule((value) => typeof value === 'boolean', 'true or false')
export const POSITIVE = numberFrom(1)
export const NOT_NEGATIVE = numberFrom(0)
export const FUNCTION_OR_NULL = rule((value) => value === null || isFunction(value), 'a function, or null')
export const LIST_OF_STRINGS = rule(isListOfStrings, 'a list of strings')

export const SIGNAL_OR_NULL = rule((value) => value === null || isSignal(value), 'an AbortSignal')

/** Refuses NaN; takes Infinity only if `most` is infinite. */
export function numberFrom(least: number, most = Number.POSITIVE_INFINITY): Rule {
  const isRight = (value: unknown) => typeof value === 'number' && value >= least && value <= most
  return rule(isRight, `a ${Number.isFinite(most) ? 'finite ' : ''}number${least < 0 ? '' : ` from ${least} on`}`)
}

export function integerFrom(least: number, most = Number.MAX_SAFE_INTEGER): Rule {
  const isRight = (value: unknown) => Number.isInteger(value) && Number(value) >= least && Number(value) <= most
  return rule(isRight, `an integer from ${least} ${most === Number.MAX_SAFE_INTEGER ? 'on' : `to ${most}`}`)
}

/** One of two strings or more. */
export function oneOf(...values: readonly string[]): Rule {
  const quoted = values.map((value) => `'${value}'`)
  const last = quoted.pop()
  return rule((value) => isString(value) && values.includes(value), `${quoted.join(', ')} or ${last}`)
}

export function isString(value: unknown): value is string {
  return typeof value === 'string'
}

export function isFunction(value: unknown): boolean {
  return typeof value === 'function'
}

export function isListOfStrings(value: unknown): boolean {
  return Array.isArray(value) && value.every(isString)
}

/** An object that is neither null nor a list. */
export function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Has these methods. */
export function hasMethods(value: unknown, ...names: readonly string[]): boolean {
  return isObject(value) && names.every((name) => isFunction(Reflect.get(value, name)))
}

/** Called for each request between workers, so it has no loop. */
function isSignal(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const { aborted, addEventListener } = value as Partial<AbortSignal>
  return typeof aborted === 'boolean' && typeof addEventListener === 'function'
}

/** Throws UsageError; `what` is how its message begins. */
export function check(what: string, value: unknown, rule: Rule, code = 'ERR_BAD_OPTION'): void {
  if (!rule.isRight(value)) throw wrong(what, value, rule, code)
}

/**
 * Checks names (ERR_UNKNOWN_OPTION: a typo would silently mean the default) and values (`code`) by one rule for each
 * option.
 * What is undefined is left at its default. Throws UsageError.
 */
export function checkOptions(what: string, given: object, rules: Rules, code = 'ERR_BAD_OPTION'): void {
  if (!isObject(given))
    throw new UsageError('ERR_BAD_OPTION', `${what} takes an object of options, not ${quoted(given)}`)
  for (const name of Object.keys(given)) {
    const value = (given as Readonly<Record<string, unknown>>)[name]
    const known = Object.hasOwn(rules, name) ? rules[name] : undefined
    if (known === undefined) throw new UsageError('ERR_UNKNOWN_OPTION', `${what} has no option '${name}'`)
    if (value !== undefined && !known.isRight(value)) throw wrong(`${what}: ${name}`, value, known, code)
  }
}

function wrong(what: string, value: unknown, { advice, isSecret }: Rule, code: string): UsageError {
  return new UsageError(code, `${what} is ${isSecret ? 'wrong' : quoted(value)}: ${advice}`)
}
