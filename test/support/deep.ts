// A value that V8 writes and does not read back: reading one level takes more stack than writing it.

import v8 from 'node:v8'

/** Objects in objects. */
export function nested(levels: number): unknown {
  let value: unknown = 1
  for (let n = 0; n < levels; n++) value = { a: value }
  return value
}

/** In the middle of those that are written and not read, since the stack is not always equally deep. Throws when there is none. */
export function unreadable(): unknown {
  const written = mostLevels((value) => v8.serialize(value))
  const read = mostLevels((value) => v8.deserialize(v8.serialize(value)))
  if (written - read < 100) throw new Error(`V8 writes ${written} levels and reads ${read}`)
  return nested(Math.round((read + written) / 2))
}

function mostLevels(attempt: (value: unknown) => unknown): number {
  let levels = 100
  for (;;) {
    try {
      attempt(nested(levels))
    } catch {
      return levels // RangeError
    }
    levels += 50
  }
}
