// A body of JSON: as it was sent, or as the parameters of a form, without the names that a form drops, too.

import { ProtocolError } from '../../src/errors.ts'
import type { BodyMap } from './forms.ts'

/**
 * What a text must contain if copying it carelessly could reach a prototype: JSON may write the letters as escapes. Few
 * do, and only these are looked through.
 */
const MAY_REACH_PROTOTYPE = /__proto__|prototype|\\u00[5-7]/

/** Throws ProtocolError, which is answered with 400, if it is not JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new ProtocolError('ERR_BAD_JSON', 'the body is no JSON', { statusHint: 400, cause })
  }
}

/**
 * The properties of a JSON object; none for anything else, lists included. Throws ProtocolError as `parseJson` does.
 * Cost: O(length), and no copy: that of a large object takes longer than parsing it.
 */
export function parseJsonForm(text: string): BodyMap {
  const value = parseJson(text)
  if (!isObject(value) || Array.isArray(value)) return Object.create(null)
  if (MAY_REACH_PROTOTYPE.test(text)) dropPrototypes(value)
  return Object.setPrototypeOf(value, null)
}

/** Without recursion: a client chooses how deep its JSON is. */
function dropPrototypes(root: object): void {
  const left = [root]
  for (let at = left.pop(); at !== undefined; at = left.pop()) {
    if (!Array.isArray(at)) dropNames(at)
    for (const value of Array.isArray(at) ? at : Object.values(at)) if (isObject(value)) left.push(value)
  }
}

/** The same names as in a form: `__proto__`, and `constructor.prototype`. */
function dropNames(map: object): void {
  Reflect.deleteProperty(map, '__proto__')
  if (Object.hasOwn(map, 'constructor') && isObject(map.constructor))
    Reflect.deleteProperty(map.constructor, 'prototype')
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
