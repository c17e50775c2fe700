// Listeners of node:net while descriptors run out. Without a free one, libuv accepts a connection with a spare
// descriptor and closes it without any report (uv__emfile_trick), so they must be closed before the last one is taken.
// A connection's own number shows how many there are; other uses, such as files of the user, are detected by checks:
// after handlers, and at intervals. A client that connects between exhaustion and the next check is still closed.

import { now } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import type { ListenSource } from '../transport.ts'
import { areDescriptorsScarce } from './descriptors.ts'

/**
 * A check takes 6 us. LOOK_MS: the shortest time between checks after handlers. IDLE_LOOK_MS: the interval when nothing
 * is received.
 */
const LOOK_MS = 10
const IDLE_LOOK_MS = 1000

const listening = new Set<ListenSource>()
let lookTimer = 0
let soonTimer = 0
let lookedAt = 0

/** From now on its `onScarce` is called when few are left. Returns what ends that. */
export function warnOfScarcity(source: ListenSource): () => void {
  listening.add(source)
  if (lookTimer === 0) lookTimer = deadlines.every(IDLE_LOOK_MS, lookForDescriptors)
  return () => {
    listening.delete(source)
    if (listening.size > 0) return
    deadlines.cancel(lookTimer)
    lookTimer = 0
  }
}

/** Call after handling what was received at `time`. */
export function lookSoon(time: number): void {
  const waitMs = lookedAt + LOOK_MS - time
  if (waitMs <= 0) lookForDescriptors()
  else if (soonTimer === 0) soonTimer = deadlines.after(waitMs, lookForDescriptors)
}

function lookForDescriptors(): void {
  lookedAt = now()
  deadlines.cancel(soonTimer)
  soonTimer = 0
  if (listening.size === 0 || !areDescriptorsScarce(1)) return
  for (const { onScarce } of [...listening]) onScarce?.()
}
