// What the machine around the master wants of it: a service manager to be told (sd_notify(3)), process 1 to reap orphans.
// Both take the addon; without it they are left undone, which the README says.

import { addon } from '../addon.ts'
import { messageOf } from '../errors.ts'
import { log } from '../log.ts'

/** How often one looks for orphans that no signal told of: several ends may come as one signal. */
const LOOK_EVERY_MS = 1000

/** `READY=1`, `RELOADING=1`, `STOPPING=1`: to who started this process as a service with Type=notify. */
export function tellService(...lines: readonly string[]): void {
  const { NOTIFY_SOCKET: socket } = process.env
  const { sys } = addon()
  if (socket === undefined || socket === '' || sys === null) return
  try {
    sys.notify(socket, lines.join('\n'))
  } catch (error) {
    log(`the service manager cannot be told: ${messageOf(error)}`) // ENOENT, ECONNREFUSED: it is gone
  }
}

/** CLOCK_MONOTONIC in microseconds, as Type=notify-reload wants it. */
export function monotonicUsec(): string {
  return `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`
}

/** As process 1 of a container: what other programs leave behind comes to us, and stays a zombie until it is taken. */
export function reapOrphans(ownPids: () => readonly number[]): void {
  const { sys } = addon()
  if (process.pid !== 1 || sys === null) return
  const reap = () => void sys.reap(ownPids())
  process.on('SIGCHLD', () => setImmediate(reap)) // after libuv has taken ours
  setInterval(reap, LOOK_EVERY_MS).unref()
}
