// A body of JSON: as it was sent, or as the parameters of a form.

import { ProtocolError } from '../../src/errors.ts'
import type { BodyMap } from './forms.ts'

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
  return Object.setPrototypeOf(value, null)
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
