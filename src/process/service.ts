// What the machine around the master wants of it: a service manager to be told (sd_notify(3)), process 1 to reap orphans.
// Both take the addon; without it they are left undone, and that is said once.

import { addon } from '../addon.ts'
import { messageOf } from '../errors.ts'
import { log } from '../log.ts'

/** How often one looks for orphans that no signal told of: several ends may come as one signal. */
const LOOK_EVERY_MS = 1000

/** `READY=1`, `RELOADING=1`, `STOPPING=1`: to who started this process as a service with Type=notify. */
export function tellService(...lines: readonly string[]): void {
  const { NOTIFY_SOCKET: socket } = process.env
  const { sys } = addon()
  if (socket === undefined || socket === '') return
  if (sys === null) return missing(`the service manager is not told when this server is ready: use Type=exec`)
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
  if (process.pid !== 1) return
  if (sys === null) return missing('what other programs leave behind stays here as zombies: use docker run --init')
  const reap = () => void sys.reap(ownPids())
  process.on('SIGCHLD', () => setImmediate(reap)) // after libuv has taken ours
  setInterval(reap, LOOK_EVERY_MS).unref()
}

const said = new Set<string>()

function missing(what: string): void {
  if (said.has(what)) return
  said.add(what)
  log(`without the addon (${addon().why}) ${what}`)
}
