// What a master holds, and whether that has grown.

import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

/** The collector runs when it likes: the lowest of several measurements is what is really held. */
const LOOKS = 10
const BETWEEN_MS = 100
/** Allowance for a heap that is not full yet and for code compiled later. */
const MOST_BYTES = 24 * 1_048_576

/** Resident bytes and descriptors of a process. */
export async function measure(pid) {
  const held = []
  for (let look = 0; look < LOOKS; look++) {
    held.push({ bytes: residentBytes(pid), descriptors: readdirSync(`/proc/${pid}/fd`).length })
    await sleep(BETWEEN_MS)
  }
  return {
    bytes: Math.min(...held.map(({ bytes }) => bytes)),
    descriptors: Math.min(...held.map(({ descriptors }) => descriptors)),
  }
}

function residentBytes(pid) {
  const [, kilobytes] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kilobytes) * 1024
}

/** Describes what has grown by more than it may; empty if all is well. */
export function growthSince(before, after) {
  const grown = []
  if (after.descriptors > before.descriptors)
    grown.push(`the master's descriptors grew from ${before.descriptors} to ${after.descriptors}`)
  if (after.bytes > before.bytes + MOST_BYTES)
    grown.push(`the master's memory grew from ${before.bytes} to ${after.bytes} bytes`)
  return grown
}
