// How many descriptors this process may have.

import { readFileSync } from 'node:fs'

/** Of descriptors, for what is not a connection: files, the addresses of a name, what the user's code opens. */
const RESERVE = 64

let scarce = 0

/** From this descriptor on few are left: they are given from the lowest free one on. Without /proc nobody knows. */
export function scarceFrom(): number {
  if (scarce === 0) {
    const limit = descriptorLimit()
    scarce = limit - Math.min(RESERVE, limit / 8)
  }
  return scarce
}

function descriptorLimit(): number {
  try {
    const [, soft = ''] = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1')) ?? []
    return Number(soft) || Number.POSITIVE_INFINITY
  } catch {
    return Number.POSITIVE_INFINITY // ENOENT, EMFILE
  }
}
