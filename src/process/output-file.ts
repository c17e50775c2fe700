// A file that processes print into, written by the master alone. Opened anew when it was moved away (logrotate needs no
// signal for it; copytruncate works too, since every write goes to the end), and bounded: Workerman's users had log
// files of hundreds of gigabytes. A full disk costs lines, never the server.

import { closeSync, fstatSync, lstatSync, renameSync, type Stats, writeSync } from 'node:fs'
import { now } from '../loop/clock.ts'
import { openFile } from './open-file.ts'

/** Root's group may read it: a log can hold secrets. */
const MODE = 0o640
/** How often the path is compared with the open file. */
const LOOK_EVERY_MS = 1000

export class OutputFile {
  readonly path: string
  /** Before the file grows over this it is put aside as `<path>.1`; 0 is without bound. */
  readonly maxBytes: number
  /** Bytes that could not be written since somebody last asked. */
  lostBytes = 0
  #fd: number
  #stat: Stats
  #size: number
  #lookedAt = now()

  /** Throws a CommandError when it cannot be opened. */
  constructor(path: string, maxBytes: number) {
    this.path = path
    this.maxBytes = maxBytes
    this.#fd = openFile(path, 'append', MODE)
    this.#stat = fstatSync(this.#fd)
    this.#size = this.#stat.size
  }

  /** Appends all of it, or counts it as lost. Never throws. */
  write(text: string | Buffer): void {
    if (this.#fd < 0) return
    const bytes = typeof text === 'string' ? Buffer.from(text) : text
    this.#look()
    if (this.#isTooLarge(bytes.length)) {
      this.#size = fstatSync(this.#fd).size // somebody may have truncated it meanwhile
      if (this.#isTooLarge(bytes.length)) this.#putAside()
    }
    let written = 0
    try {
      while (written < bytes.length) written += writeSync(this.#fd, bytes, written)
    } catch {
      this.lostBytes += bytes.length - written // ENOSPC, EIO: the disk may come back
    }
    this.#size += written
  }

  /** Opens the path anew: somebody has moved the file. Goes on with the old one when that fails. */
  reopen(): void {
    if (this.#fd < 0) return
    try {
      const fd = openFile(this.path, 'append', MODE)
      closeSync(this.#fd)
      this.#fd = fd
      this.#stat = fstatSync(fd)
      this.#size = this.#stat.size
    } catch {
      this.#lookedAt = now() // a CommandError: the folder is gone, perhaps; looked at again later
    }
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd)
    this.#fd = -1
  }

  #isTooLarge(more: number): boolean {
    return this.maxBytes > 0 && this.#size > 0 && this.#size + more > this.maxBytes
  }

  #look(): void {
    if (now() - this.#lookedAt < LOOK_EVERY_MS) return
    this.#lookedAt = now()
    if (!this.#isInPlace()) this.reopen()
    else this.#size = fstatSync(this.#fd).size // it may have been truncated
  }

  #isInPlace(): boolean {
    try {
      const found = lstatSync(this.path)
      return found.dev === this.#stat.dev && found.ino === this.#stat.ino
    } catch {
      return false // ENOENT
    }
  }

  /** The half that is older stays readable under another name. */
  #putAside(): void {
    if (!this.#stat.isFile()) return
    try {
      if (this.#isInPlace()) renameSync(this.path, `${this.path}.1`)
      this.reopen()
    } catch {
      this.#size = 0 // EACCES: the folder is not ours. Looked at again when as much has been written
    }
  }
}
