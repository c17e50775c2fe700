// Standard output and error of a server in the foreground. Their reader may stop: a pager, Ctrl+S at the terminal, an
// ssh whose network hangs. That costs lines, which are counted, but neither our memory nor the master's time.
//
// Node writes to a terminal blocking, so one line logged after Ctrl+S would stop the master until Ctrl+Q. O_NONBLOCK on
// descriptor 2 would be no cure: our children and perhaps the shell have the same open file description, and what V8
// prints before it aborts would be cut. So the terminal is opened again, as a description of our own.

import { constants, fstatSync, openSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { isatty } from 'node:tty'
import { codeOf } from '../../errors.ts'
import { now } from '../../loop/clock.ts'
import type { Sink } from './logbook.ts'

/** In bytes. */
const MOST_WAITING = 1_048_576
/** How often a terminal that has no room is tried again: Node reports room only for its own streams, which block. */
const RETRY_MS = 25
/** How long the end of the master is held back for what still waits. */
const LAST_WORDS_MS = 2000

/** Takes the next text as long as less than `MOST_WAITING` bytes wait. */
interface Screen extends Sink {
  readonly waitingBytes: number
}

/** By what they lead to: both streams have the same terminal as a rule, whose lines stay in order. */
const screens = new Map<string, Screen>()

/** Standard output (1) or error (2). */
export function screenOf(fd: 1 | 2): Screen {
  const key = isatty(fd) ? terminalOf(fd) : String(fd)
  const screen = screens.get(key) ?? newScreen(fd)
  screens.set(key, screen)
  return screen
}

/** Resolves when everything is written, or no reader has taken the rest within `LAST_WORDS_MS`. */
export async function lastWords(): Promise<void> {
  const endAt = now() + LAST_WORDS_MS
  while ([...screens.values()].some(({ waitingBytes }) => waitingBytes > 0) && now() < endAt) await sleep(RETRY_MS)
}

function terminalOf(fd: number): string {
  const { dev, ino } = fstatSync(fd)
  return `${dev}:${ino}`
}

function newScreen(fd: 1 | 2): Screen {
  const stream = fd === 1 ? process.stdout : process.stderr
  const own = isatty(fd) ? openAgain(fd) : -1
  return own < 0 ? new StreamScreen(stream) : new TerminalScreen(own)
}

/**
 * Returns -1 where it cannot be opened, and stays blocking: EACCES after `su`, whose terminal is the other user's;
 * ENOENT without /proc.
 */
function openAgain(fd: number): number {
  const { O_WRONLY, O_NOCTTY, O_NONBLOCK } = constants
  try {
    return openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_NOCTTY | O_NONBLOCK)
  } catch {
    return -1
  }
}

class StreamScreen implements Screen {
  lostBytes = 0
  readonly #stream: NodeJS.WriteStream

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream
  }

  get waitingBytes(): number {
    return this.#stream.writableLength
  }

  write(text: string): void {
    if (this.waitingBytes < MOST_WAITING) this.#stream.write(text)
    else this.lostBytes += Buffer.byteLength(text)
  }
}

class TerminalScreen implements Screen {
  lostBytes = 0
  waitingBytes = 0
  readonly #fd: number
  #waiting: Buffer[] = []
  #isTired = false

  constructor(fd: number) {
    this.#fd = fd
  }

  write(text: string): void {
    const bytes = Buffer.from(text)
    if (this.waitingBytes >= MOST_WAITING) {
      this.lostBytes += bytes.length
      return
    }
    this.#waiting.push(bytes)
    this.waitingBytes += bytes.length
    if (!this.#isTired) this.#put()
  }

  #put(): void {
    const [first, second] = this.#waiting
    const bytes = first !== undefined && second === undefined ? first : Buffer.concat(this.#waiting)
    const rest = bytes.subarray(this.#take(bytes))
    this.#waiting = rest.length > 0 ? [rest] : []
    this.waitingBytes = rest.length
    this.#isTired = rest.length > 0
    if (this.#isTired) setTimeout(() => this.#put(), RETRY_MS).unref()
  }

  /** Returns how many bytes need not wait any more: they are written or lost. */
  #take(bytes: Buffer): number {
    let taken = 0
    try {
      while (taken < bytes.length) taken += writeSync(this.#fd, bytes, taken)
    } catch (error) {
      if (codeOf(error) === 'EAGAIN') return taken
      this.lostBytes += bytes.length - taken // EIO: it is closed
    }
    return bytes.length
  }
}
