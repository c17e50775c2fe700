// Log lines, in Workerman's form: `YYYY-mm-dd HH:MM:SS pid:<pid> [worker] message`. They go to stderr, which a daemon
// inherits as its log file, so that what V8 or libc print at a crash lands in the same place.

import { now } from './loop/clock.ts'

let prefix = ''

/** Puts a name before every message of this process: `[echo:2]`. */
export function nameLog(name: string): void {
  prefix = `[${name}] `
}

/** Writes one line. Never throws, and never ends the process: see `guardOutput`. */
export function log(message: string): void {
  guardOutput()
  process.stderr.write(`${timestamp(new Date())} pid:${process.pid} ${prefix}${message}\n`)
}

function timestamp(date: Date): string {
  const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000)
  return local.toISOString().slice(0, 19).replace('T', ' ')
}

let isGuarded = false

/**
 * A full disk (ENOSPC) or a closed pipe (EPIPE) behind stdout or stderr must not end a server: without a listener
 * `process.stdout.write` does, with exit code 1. The stream stays writable, so output comes back with the disk.
 */
export function guardOutput(): void {
  if (isGuarded) return
  isGuarded = true
  for (const stream of [process.stdout, process.stderr]) stream.on('error', ignore)
}

function ignore(): void {
  // There is nowhere left to report it.
}

/** At most this many lines a second from one limited logger: a broken peer must not fill a disk. */
const LINES_PER_SECOND = 10

/** A `log` that drops lines over the rate and says afterwards how many. */
export class LimitedLog {
  #windowStart = 0
  #lines = 0
  #dropped = 0

  log(message: string): void {
    const time = now()
    if (time - this.#windowStart >= 1000) this.#open(time)
    if (this.#lines++ < LINES_PER_SECOND) log(message)
    else this.#dropped++
  }

  #open(time: number): void {
    if (this.#dropped > 0) log(`... and ${this.#dropped} more like these`)
    this.#windowStart = time
    this.#lines = this.#dropped = 0
  }
}
