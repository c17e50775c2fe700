// What not every machine has. A test that needs it is skipped where it is missing; scripts/test.mjs reads the lines
// printed at the end, counts such tests and reports what was lacking.

import { networkInterfaces } from 'node:os'
import { test } from 'uvu'
import { addon } from '../../src/addon.ts'

type Add = (title: string, use: () => unknown) => void

const lacking = new Map<string, number>()

/** For tests that need machines with `what`; `add` is how such a test is added there. */
export function where(has: boolean, what: string, add: Add = everyDay): Add {
  return has ? add : (title) => skip(title, what)
}

function everyDay(title: string, use: () => unknown): void {
  test(title, async () => void (await use()))
}

function skip(title: string, what: string): void {
  if (lacking.size === 0) process.once('exit', tell)
  lacking.set(what, (lacking.get(what) ?? 0) + 1)
  test.skip(title)
}

function tell(): void {
  for (const [what, count] of lacking) console.log(`  Lacking ${what}: ${count}`)
}

/** A link-local IPv6 address with its interface, `fe80::1%eth0`; undefined on a machine without one. */
export function linkLocal(): string | undefined {
  const all = Object.entries(networkInterfaces()).flatMap(([name, addresses = []]) =>
    addresses.map(({ address }) => `${address.split('%')[0]}%${name}`),
  )
  return all.find((address) => address.startsWith('fe80:'))
}

export const isRoot = process.getuid?.() === 0
export const asRoot = where(isRoot, 'root')
export const withAddon = where(addon().sys !== null, 'the addon')

/**
 * Nobody's name, as a resolver without a network finds out: a label has at most 63 bytes (RFC 1035, section 2.3.4). With
 * `.invalid`, how long it takes is up to the name server that is asked.
 */
export const NO_SUCH_HOST = 'no-such-host'.repeat(6)
