// The zone of a link-local address (RFC 4007 section 11): to people an interface's name, to the kernel its number. An
// interface that is made anew, as those of VPNs and containers are, has another number.

import { networkInterfaces } from 'node:os'
import { recently } from '../loop/clock.ts'

/** How long what was seen of interfaces counts. To look for each datagram would cost more than to send it. */
const SEEN_MS = 1000

let numbers: ReadonlyMap<string, number> = new Map()
let seenAt = Number.NEGATIVE_INFINITY

/** The number of the interface that is named, or of which this is the number; 0 if none that is up has this name. */
export function scopeOf(zone: string): number {
  return interfaces().get(zone) ?? (/^\d+$/.test(zone) ? Number(zone) : 0)
}

/** As Node writes it: the interface's name, or its number if the interface is gone. */
export function zoneOf(scope: number): string {
  for (const [name, number] of interfaces()) if (number === scope) return name
  return String(scope)
}

function interfaces(): ReadonlyMap<string, number> {
  const time = recently()
  if (time - seenAt < SEEN_MS) return numbers
  seenAt = time
  numbers = new Map(
    Object.entries(networkInterfaces()).flatMap(([name, list]) => {
      const found = list?.find((one) => one.family === 'IPv6' && one.scopeid !== 0)
      return found?.family === 'IPv6' ? [[name, found.scopeid]] : []
    }),
  )
  return numbers
}
