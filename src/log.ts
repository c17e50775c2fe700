// Log lines, in Workerman's form: `YYYY-mm-dd HH:MM:SS pid:<pid> [worker] message`, on stderr. A process whose stderr is a
// pipe to its master writes records instead, which the master formats: JSON text sequences, RFC 7464, told from what
// else is printed there by their first byte.

import { now } from './loop/clock.ts'

/** RS, the first byte of a record. RFC 7464 section 2.2. */
export const RECORD_SEPARATOR = '\x1e'

export interface LogRecord {
  /** ISO 8601. */
  readonly time: string
  readonly message: string
}

let worker = ''
let write = writeLine

/** Names this process in its lines: `[echo:2]`. */
export function nameLog(name: string): void {
  worker = name
}

/** Writes one message. Never throws, and never ends the process: see `guardOutput`. */
export function log(message: string): void {
  guardOutput()
  write(message)
}

/** In characters. A longer message becomes several, so that no record is longer than its reader's buffer. */
export const LONGEST_MESSAGE = 65_536

/**
 * From now on writes records to stderr, a pipe of ours, and waits when it is full: a process that ends at once would take
 * along what it still had to write, which is the reason why (of 50,000 lines before a crash 379 were left, measured). So
 * it also waits for a master that has been stopped; one that runs drops what its own pipe does not take (output.ts).
 */
export function logRecords(): void {
  const { _handle: handle } = process.stderr as { _handle?: { setBlocking?: (isBlocking: boolean) => unknown } }
  handle?.setBlocking?.(true) // of Node's own, and in no documentation: without it the end of a flood may be lost
  write = (message) => {
    const time = new Date().toISOString()
    const records = inPieces(message).map((piece): LogRecord => ({ time, message: piece }))
    process.stderr.write(records.map((record) => `${RECORD_SEPARATOR}${JSON.stringify(record)}\n`).join(''))
  }
}

/** A text in pieces of `LONGEST_MESSAGE`; no character is cut in two. */
export function inPieces(text: string): string[] {
  const pieces: string[] = []
  let from = 0
  while (text.length - from > LONGEST_MESSAGE) {
    const isPair = (text.codePointAt(from + LONGEST_MESSAGE - 1) ?? 0) > 0xffff
    const end = from + LONGEST_MESSAGE - (isPair ? 1 : 0)
    pieces.push(text.slice(from, end))
    from = end
  }
  pieces.push(text.slice(from))
  return pieces
}

/** From now on gives messages to `sink`; null: writes lines to stderr again. */
export function sendLogTo(sink: ((message: string) => void) | null): void {
  write = sink ?? writeLine
}

function writeLine(message: string): void {
  process.stderr.write(formatText(new Date(), process.pid, worker, message))
}

/** A message as text; the further lines of a stack stay as they are. */
export function formatText(time: Date, pid: number, worker: string, message: string): string {
  return `${timestamp(time)} pid:${pid} ${worker && `[${worker}] `}${printable(message)}\n`
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not pass
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g

/**
 * What a peer has sent may be in a message, and must not drive a terminal: control characters become visible. Those over
 * 0x7f too: U+009B begins a sequence as ESC [ does (ECMA-48 section 5.3).
 */
function printable(text: string): string {
  return text.replace(CONTROL, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`)
}

let lastSecond = Number.NaN
let lastTimestamp = ''

/** Most lines are of the same second as the one before: a flood of short ones takes half the time. */
function timestamp(date: Date): string {
  const second = Math.floor(date.getTime() / 1000)
  if (second !== lastSecond) {
    const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000)
    lastTimestamp = local.toISOString().slice(0, 19).replace('T', ' ')
    lastSecond = second
  }
  return lastTimestamp
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
  process.on('SIGXFSZ', ignore) // over RLIMIT_FSIZE (`ulimit -f`): the write fails with EFBIG then
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
