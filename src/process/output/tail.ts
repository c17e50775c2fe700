// The end of a log file and what is appended to it, across rotations, by its path, like tail -F.

import { closeSync, fstatSync, openSync, readSync, type Stats } from 'node:fs'
import { StringDecoder } from 'node:string_decoder'
import { codeOf } from '../../errors.ts'
import { statOf } from '../paths.ts'

const CHUNK = 65_536
const LF = 0x0a

/**
 * The last `count` lines for which `isMeant` is true, oldest first, and the position read to. A file that is not there
 * has none: after a rotation it is made with the next line. Throws a system error.
 */
export function lastLines(path: string, count: number, isMeant: (line: string) => boolean): [string[], number] {
  const fd = openIfThere(path)
  if (fd < 0) return [[], 0]
  try {
    const { size } = fstatSync(fd)
    const lines: string[] = [] // the last one first
    let rest: Buffer = Buffer.alloc(0)
    for (let end = size; end > 0 && lines.length < count; ) {
      const start = Math.max(0, end - CHUNK)
      const bytes = Buffer.concat([readAt(fd, start, end - start), rest])
      const from = start === 0 ? 0 : bytes.indexOf(LF) + 1 || bytes.length // the first may have begun before
      const whole = bytes.subarray(from).toString().split('\n')
      if (whole.at(-1) === '') whole.pop()
      for (const line of whole.reverse()) if (lines.length < count && isMeant(line)) lines.push(line)
      rest = bytes.subarray(0, from)
      end = start
    }
    return [lines.reverse(), size]
  } finally {
    closeSync(fd)
  }
}

function openIfThere(path: string): number {
  try {
    return openSync(path, 'r')
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
    return -1
  }
}

function readAt(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  return bytes.subarray(0, readSync(fd, bytes, 0, length, position))
}

/** Reads what is appended to the file at a path, whichever file that is. */
export class FileTail {
  readonly #path: string
  readonly #onLine: (line: string) => void
  readonly #isFull: () => boolean
  #fd = -1
  #stat: Stats | null = null
  /** The rotated file (`.1`) when all was read. */
  #aside: Stats | undefined
  #position: number
  #rest = ''
  #decoder = new StringDecoder('utf8')

  /**
   * Starts at this position of the current file, or of the rotated one if no other has followed that yet.
   * While `isFull()` nothing is read.
   */
  constructor(path: string, position: number, onLine: (line: string) => void, isFull: () => boolean = () => false) {
    this.#path = path
    this.#position = position
    this.#onLine = onLine
    this.#isFull = isFull
    this.#aside = this.#statAside()
    this.#open(position)
    if (this.#fd < 0) this.#open(position, this.#asidePath)
  }

  /**
   * Reads what has arrived. A file that was moved away is read to its end first, then the new one from its beginning.
   */
  look(): void {
    if (this.#follow()) this.#aside = this.#statAside()
  }

  /** This and the following return whether all was read. */
  #follow(): boolean {
    if (!this.#read()) return false
    const now = statOf(this.#path)
    if (now === undefined) return true
    // First what arrived between the last read and this check.
    if (this.#stat?.ino !== now.ino || this.#stat.dev !== now.dev)
      return this.#read() && this.#readMissed() && this.#moveTo(this.#path)
    if (now.size >= this.#position) return true
    this.#position = 0 // truncated: logrotate's copytruncate
    return this.#read()
  }

  /** Reads a file missed by two rotations since the last check: it was never seen here, and is now the rotated one. */
  #readMissed(): boolean {
    const [before, now] = [this.#aside, this.#statAside()]
    const isOurs = now?.ino === this.#stat?.ino && now?.dev === this.#stat?.dev
    // ours was removed
    const isOld = now?.ino === before?.ino && now?.size === before?.size && now?.mtimeMs === before?.mtimeMs
    const isMissed = this.#fd >= 0 && now !== undefined && !isOurs && !isOld
    return !isMissed || this.#moveTo(this.#asidePath)
  }

  get #asidePath(): string {
    return `${this.#path}.1`
  }

  #statAside(): Stats | undefined {
    return statOf(this.#asidePath)
  }

  #moveTo(path: string): boolean {
    this.close()
    this.#open(0, path)
    return this.#read()
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd)
    this.#fd = -1
  }

  #open(position: number, path = this.#path): void {
    try {
      this.#fd = openSync(path, 'r')
      this.#stat = fstatSync(this.#fd)
      this.#position = position
      this.#rest = ''
      this.#decoder = new StringDecoder('utf8')
    } catch {
      this.#stat = null // ENOENT: created with the next line
    }
  }

  #read(): boolean {
    if (this.#fd < 0) return true
    for (;;) {
      if (this.#isFull()) return false
      const bytes = readAt(this.#fd, this.#position, CHUNK)
      if (bytes.length === 0) return true
      this.#position += bytes.length
      const lines = (this.#rest + this.#decoder.write(bytes)).split('\n')
      this.#rest = lines.pop() ?? ''
      for (const line of lines) this.#onLine(line)
    }
  }
}
