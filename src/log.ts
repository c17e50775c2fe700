// Log lines in Workerman's form, on stderr: `YYYY-mm-dd HH:MM:SS pid:<pid> [worker] message`. A process whose stderr is
// a pipe to its master writes records instead, which the master formats: JSON text sequences (RFC 7464), distinguished
// from other output there by their first byte.

import { now } from './loop/clock.ts'
import { nothing } from './nothing.ts'
import { printableLog } from './printable.ts'
import { localTime } from './times.ts'

/** RS, the first byte of a record. RFC 7464 section 2.2. */
export const RECORD_SEPARATOR = '\x1e'

export interface LogRecord {
  /** ISO 8601. */
  readonly time: string
  readonly message: string
}

let worker = ''
let write = writeLine

/** Sets the name in this process's lines: `[echo:2]`. */
export function nameLog(name: string): void {
  worker = name
}

/** Logs one message. Never throws, and never ends the process: see `guardOutput`. */
export function log(message: string): void {
  guardOutput()
  write(message)
}

/** In characters. A longer message is split, so that no record exceeds its reader's buffer. */
export const LONGEST_MESSAGE = 65_536

/**
 * From now on writes records to stderr, a pipe to the master, blocking when it is full: a process that ends at once
 * would lose what it had yet to write, including the reason for its end (measured: 379 of 50,000 lines before a crash
 * arrived). So it also blocks while the master is stopped; a running master drops what its own pipe cannot take
 * (output.ts).
 */
export function logRecords(): void {
  const { _handle: handle } = process.stderr as { _handle?: { setBlocking?: (isBlocking: boolean) => unknown } }
  handle?.setBlocking?.(true) // undocumented in Node; without it the end of a flood may be lost
  write = (message) => {
    const time = new Date().toISOString()
    const pieces = inPieces(message).map((piece, nth) => (nth === 0 ? piece : CONTINUED + piece))
    const records = pieces.map((piece): LogRecord => ({ time, message: piece }))
    process.stderr.write(records.map((record) => `${RECORD_SEPARATOR}${JSON.stringify(record)}\n`).join(''))
  }
}

/** Splits a text into pieces of `LONGEST_MESSAGE`, without cutting a character in two. */
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

/** From now on passes messages to `sink`; null: writes lines to stderr again. */
export function sendLogTo(sink: ((message: string) => void) | null): void {
  write = sink ?? writeLine
}

function writeLine(message: string): void {
  process.stderr.write(lineOf(message))
}

/** What this process writes for a message if nobody else formats it. Only the first of its lines has a time. */
export function lineOf(message: string): string {
  return formatText(new Date(), process.pid, worker, linesOf(message).join('\n'))
}

/** Formats one line of a message, or all of `linesOf`. */
export function formatText(time: Date, pid: number, worker: string, text: string): string {
  return `${timestamp(time)} pid:${pid} ${worker && `[${worker}] `}${printableLog(text)}\n`
}

/** Stands before what goes on with a message. */
const CONTINUED = '    | '
/** As a stack is, all of it. */
const INDENTED = /^(?: {4}|$)/

/**
 * The lines of a message. All but the first are indented: an error may quote its peer, whose text must not begin a line
 * that could be a message of its own. A stack is as it is.
 */
export function linesOf(message: string): string[] {
  const lines = message.split('\n')
  if (lines.every((line, nth) => nth === 0 || INDENTED.test(line))) return lines
  return lines.map((line, nth) => (nth === 0 || line === '' ? line : CONTINUED + line))
}

let lastSecond = Number.NaN
let lastTimestamp = ''

/** Cached, since most lines fall in the same second as the one before: it halves the time of a flood of short lines. */
function timestamp(date: Date): string {
  const second = Math.floor(date.getTime() / 1000)
  if (second !== lastSecond) {
    lastTimestamp = localTime(date)
    lastSecond = second
  }
  return lastTimestamp
}

let isGuarded = false

/**
 * Keeps a full disk (ENOSPC) or a closed pipe (EPIPE) behind stdout or stderr from ending the server: without a
 * listener, `process.stdout.write` ends it with exit code 1. The stream stays writable, so output resumes when the disk
 * has room.
 */
export function guardOutput(): void {
  if (isGuarded) return
  isGuarded = true
  for (const stream of [process.stdout, process.stderr]) stream.on('error', nothing) // over RLIMIT_FSIZE (`ulimit -f`): the write then fails with EFBIG
  process.on('SIGXFSZ', nothing) // There is nowhere left to report it.
}

/** Limit of lines per second of one limited logger: a broken peer must not fill a disk. */
const LINES_PER_SECOND = 10

/** A `log` that drops lines above the rate and later logs how many. */
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
