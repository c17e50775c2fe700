// How many descriptors this process may have.

import { closeSync, openSync, readFileSync } from 'node:fs'
import { codeOf } from '../errors.ts'

/** Of descriptors, for what is not a connection: files, the addresses of a name, what the user's code opens. */
const RESERVE = 64
/** So many must be free again, before who rests for want of them goes on. */
const TO_GO_ON = 8

let scarce = 0

/** From this descriptor on few are left: they are given from the lowest free one on. Without /proc nobody knows. */
export function scarceFrom(): number {
  if (scarce === 0) {
    const limit = descriptorLimit()
    scarce = limit - Math.min(RESERVE, limit / 8)
  }
  return scarce
}

/**
 * Whether few are left, for who rests because of that: who came back too early would take one connection after each rest,
 * until nothing is left. A listener that rests has left a hole below, so several are tried.
 */
export function areDescriptorsScarce(tries = TO_GO_ON): boolean {
  const tried: number[] = []
  try {
    while (tried.length < tries) tried.push(openSync('/dev/null', 'r'))
    return Math.max(...tried) >= scarceFrom()
  } catch (error) {
    return isLackOfDescriptors(error) // not where there is no /dev/null
  } finally {
    for (const fd of tried) closeSync(fd)
  }
}

export function isLackOfDescriptors(error: unknown): boolean {
  const code = codeOf(error)
  return code === 'EMFILE' || code === 'ENFILE'
}

function descriptorLimit(): number {
  try {
    const [, soft = ''] = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1')) ?? []
    return Number(soft) || Number.POSITIVE_INFINITY
  } catch {
    return Number.POSITIVE_INFINITY // ENOENT, EMFILE
  }
}
