// Objects of ours that never mean what a structured clone makes of them: `{}`, since all they have is private, or a
// part of them. Who sends or shares one has forgotten to take out what is needed of it: `request.rawBody()`, say.

type Class = abstract new (...args: never) => object

const classes = new Map<string, Class>()

/** How many properties of an object are looked at. Further ones are rare in a message, and this is only an aid. */
const MOST_KEYS = 64

/** Adds classes that stay in their process, by the names that users know: those in a bundle may be others. */
export function registerUncloneable(byName: Readonly<Record<string, Class>>): void {
  for (const [name, one] of Object.entries(byName)) classes.set(name, one)
}

/**
 * Why a value that v8 has written should not be: it is such an object, or has one among its properties or items. Null
 * if there is none. Calls no getter. Not for proxies, which v8 refuses.
 */
export function uncloneableIn(value: unknown): string | null {
  const flaw = flawOf(value)
  if (flaw !== null || typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return flaw
  return Array.isArray(value) ? flawOfItems(value) : flawOfProperties(value)
}

function flawOfItems(list: readonly unknown[]): string | null {
  for (let at = 0; at < Math.min(list.length, MOST_KEYS); at++) {
    const flaw = flawOfProperty(list, `${at}`)
    if (flaw !== null) return flaw
  }
  return null
}

function flawOfProperties(value: object): string | null {
  let left = MOST_KEYS
  for (const key in value) {
    const flaw = flawOfProperty(value, key)
    if (flaw !== null) return flaw
    if (--left === 0) break
  }
  return null
}

function flawOfProperty(value: object, key: string): string | null {
  return flawOf(Object.getOwnPropertyDescriptor(value, key)?.value)
}

function flawOf(value: unknown): string | null {
  if (typeof value !== 'object' || value === null) return null
  for (const [name, one] of classes)
    if (value instanceof one) return `a ${name} stays in its process: take out what is needed of it`
  return null
}
