// Query strings and urlencoded bodies as nested maps, with PHP's brackets (`a[]=1`, `a[b][c]=2`) as Workerman's users
// know them. Maps have no prototype, and names by which careless copying would reach one are dropped. Depth and count
// are bounded.

import { ProtocolError } from '../../src/errors.ts'
import { hexDigit } from './chunked.ts'

/** A text, or what `a[]=1&b[c]=2` makes: lists and maps of such. */
export type FormValue = string | FormMap | FormValue[]

/** Has no prototype. */
export interface FormMap {
  [name: string]: FormValue
}

/** What a body may have: of a form, texts; of JSON, anything. */
export type BodyValue = string | number | boolean | null | BodyMap | BodyValue[]

/** Has no prototype; maps within it do if they come from JSON. */
export interface BodyMap {
  [name: string]: BodyValue
}

interface FormLimits {
  /** Names and values. Default 1,000, PHP's max_input_vars. */
  readonly maxParameters: number
  /** Brackets after a name. Default 5: no hand-written form has more. */
  readonly maxDepth: number
}

export const FORM_LIMITS: FormLimits = { maxParameters: 1000, maxDepth: 5 }

/** Whether copying these keys into plain objects, one by one, could reach a prototype. */
function reachesPrototype(path: readonly string[]): boolean {
  return path.some((key, index) => key === '__proto__' || (key === 'constructor' && path[index + 1] === 'prototype'))
}

/**
 * Parses `a=1&b[]=2`. Malformed escapes stay as they are. Throws ProtocolError (413) beyond the limits. Cost:
 * O(length).
 */
export function parseForm(text: string, limits: FormLimits = FORM_LIMITS): FormMap {
  const form = new FormBuilder(limits)
  if (text === '') return form.finish()
  for (const pair of text.split('&', limits.maxParameters + 1)) {
    const equals = pair.indexOf('=')
    const name = equals < 0 ? pair : pair.slice(0, equals)
    form.add(unescaped(name), equals < 0 ? '' : unescaped(pair.slice(equals + 1)))
  }
  return form.finish()
}

/** Collects names and values of a query or of the parts of an upload. */
export class FormBuilder {
  readonly #limits: FormLimits
  readonly #root: FormMap = Object.create(null)
  /** The next index that `[]` stands for, per map. */
  readonly #next = new Map<FormMap, number>()
  #count = 0

  constructor(limits: FormLimits = FORM_LIMITS) {
    this.#limits = limits
  }

  add(name: string, value: string): void {
    if (++this.#count > this.#limits.maxParameters)
      throw tooMuch('ERR_TOO_MANY_PARAMETERS', `more than ${this.#limits.maxParameters} parameters`)
    const bracket = name.indexOf('[')
    const isNested = bracket > 0 && name.endsWith(']')
    const path = isNested ? [name.slice(0, bracket), ...name.slice(bracket + 1, -1).split('][')] : [name]
    if (path.length > this.#limits.maxDepth + 1)
      throw tooMuch('ERR_FORM_TOO_DEEP', `a parameter below more than ${this.#limits.maxDepth} others`)
    if (path[0] === '' || reachesPrototype(path)) return
    let at = this.#root
    for (const key of path.slice(0, -1)) at = this.#below(at, this.#keyIn(at, key))
    at[this.#keyIn(at, path.at(-1) as string)] = value
  }

  /** Turns maps whose keys count up from 0 into lists, as PHP prints them. */
  finish(): FormMap {
    for (const key of Object.keys(this.#root)) this.#root[key] = listed(this.#root[key] as FormValue)
    return this.#root
  }

  #below(map: FormMap, key: string): FormMap {
    const found = map[key]
    if (found !== undefined && typeof found !== 'string') return found as FormMap
    const made: FormMap = Object.create(null)
    map[key] = made
    return made
  }

  #keyIn(map: FormMap, key: string): string {
    if (map === this.#root) return key
    const next = this.#next.get(map) ?? 0
    if (key !== '' && !/^(?:0|[1-9]\d{0,8})$/.test(key)) return key
    const index = key === '' ? next : Number(key)
    this.#next.set(map, Math.max(next, index + 1))
    return String(index)
  }
}

function listed(value: FormValue): FormValue {
  if (typeof value === 'string' || Array.isArray(value)) return value
  const keys = Object.keys(value)
  for (const key of keys) value[key] = listed(value[key] as FormValue)
  const isList = keys.length > 0 && keys.every((key, index) => key === String(index))
  return isList ? Object.values(value) : value
}

function tooMuch(code: string, message: string): ProtocolError {
  return new ProtocolError(code, message, { statusHint: 413 })
}

/** `+` becomes a space and `%41` becomes `A`; a malformed escape stays as it is. */
function unescaped(text: string): string {
  const spaced = text.includes('+') ? text.replaceAll('+', ' ') : text
  if (!spaced.includes('%')) return spaced
  try {
    return decodeURIComponent(spaced)
  } catch {
    return leniently(spaced) // URIError: bytes that are not UTF-8, or not an escape at all
  }
}

const PERCENT = 0x25

/** In place, in one pass: a client may send a megabyte of runs of one escape each. */
function leniently(text: string): string {
  const bytes = Buffer.from(text)
  let length = 0
  for (let at = 0; at < bytes.length; at++) {
    const code = bytes[at] === PERCENT && at + 2 < bytes.length ? escapedAt(bytes, at + 1) : -1
    bytes[length++] = code < 0 ? (bytes[at] as number) : code
    if (code >= 0) at += 2
  }
  return bytes.toString('utf8', 0, length)
}

/** -1 for anything but two hexadecimal digits. */
function escapedAt(bytes: Buffer, at: number): number {
  const high = hexDigit(bytes[at] as number)
  const low = hexDigit(bytes[at + 1] as number)
  return high < 0 || low < 0 ? -1 : high * 16 + low
}
