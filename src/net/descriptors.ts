// The descriptor limit of this process.

import { closeSync, openSync, readFileSync } from 'node:fs'
import type net from 'node:net'
import { codeOf } from '../errors.ts'

/** Descriptors reserved for what is not a connection: files, name look-ups, whatever user code opens. */
const RESERVE = 64
/** How many must be free again before a listener that rests for lack of them resumes. */
const TO_GO_ON = 8

let scarce = 0

/**
 * The descriptor of a socket or server of node:net, to be read and never closed; -1 if it has none, or has closed. A
 * private property of Node: without it callers go on, but do without the number.
 */
export function descriptorOf(socket: net.Socket | net.Server): number {
  return (socket as { _handle?: { fd?: number } | null })._handle?.fd ?? -1
}

/** From this number on, few descriptors are left: the kernel hands out the lowest free one. Unknown without /proc. */
export function scarceFrom(): number {
  if (scarce === 0) {
    const limit = descriptorLimit()
    scarce = limit - Math.min(RESERVE, limit / 8)
  }
  return scarce
}

/**
 * Whether few are left, for a listener that rests because of it. Resuming too early would take one connection per rest
 * until nothing is left. A closed listener leaves a gap below, so several are tried.
 */
export function areDescriptorsScarce(tries = TO_GO_ON): boolean {
  const tried: number[] = []
  try {
    while (tried.length < tries) tried.push(openSync('/dev/null', 'r'))
    return Math.max(...tried) >= scarceFrom()
  } catch (error) {
    return isLackOfDescriptors(error) // false if /dev/null is missing
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
