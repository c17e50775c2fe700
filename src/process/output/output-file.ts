// A file that processes print into, written by the master alone. It is reopened after it was moved away (logrotate
// needs to send no signal; copytruncate works too, since every write appends), and its size is limited: Workerman's
// users had log files of hundreds of gigabytes. A full disk costs lines, never the server.

import { closeSync, fstatSync, ftruncateSync, lstatSync, renameSync, type Stats, writeSync } from 'node:fs'
import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { nothing } from '../../nothing.ts'
import { checkFile, openFile } from '../open-file.ts'

/** Readable by root's group, but not by others: a log may contain secrets. */
const MODE = 0o640
/** How often the path is compared with the open file. */
const LOOK_EVERY_MS = 1000
const LF = 0x0a

/** Throws a CommandError if there could be no OutputFile of this path. */
export function checkOutputFile(path: string): void {
  checkFile(path, MODE)
}

export class OutputFile {
  readonly path: string
  /** Before the file grows beyond this it is renamed to `<path>.1`; 0 means no limit. */
  readonly maxBytes: number
  /** Bytes lost since this was last reset to 0. */
  lostBytes = 0
  #fd: number
  #stat: Stats
  #size: number
  /** The last line was only partly written. */
  #isCut = false
  /** Why the path could not be opened again; empty if it could. */
  #failure = ''
  /** The open file has no name any more: what it has will be gone with the descriptor. */
  #isDeleted = false
  #lookedAt = now()
  readonly #opened: (fd: number) => void

  /**
   * Throws a CommandError if the file cannot be opened.
   * @param opened called with the descriptor, now and whenever it changes
   */
  constructor(path: string, maxBytes: number, opened: (fd: number) => void = nothing) {
    this.path = path
    this.maxBytes = maxBytes
    this.#opened = opened
    this.#fd = openFile(path, 'append', MODE)
    this.#stat = fstatSync(this.#fd)
    this.#size = this.#stat.size
    opened(this.#fd)
  }

  /** Appends the whole text, or counts it as lost. Never throws. */
  write(text: string | Buffer): void {
    if (this.#fd < 0) return
    this.#look()
    for (const piece of inPieces(typeof text === 'string' ? Buffer.from(text) : text, this.maxBytes))
      this.#append(piece)
  }

  #append(piece: Buffer): void {
    if (this.#isTooLarge(piece.length)) {
      this.#size = sizeOf(this.#fd) // it may have been truncated meanwhile
      if (this.#isTooLarge(piece.length)) this.#putAside()
    }
    const bytes = this.#isCut ? Buffer.concat([Buffer.of(LF), piece]) : piece // start the next line afresh
    let written = 0
    try {
      while (written < bytes.length) written += writeSync(this.#fd, bytes, written)
      this.#isCut = false
      if (this.#isDeleted) this.lostBytes += piece.length
    } catch {
      this.lostBytes += Math.min(piece.length, bytes.length - written) // ENOSPC, EIO: the disk may recover
      if (written > 0) this.#isCut = bytes[written - 1] !== LF
    }
    this.#size += written
  }

  /**
   * Opens the path again, since the file may have been moved. On failure goes on with the old file, and says so in the
   * log.
   */
  reopen(): void {
    if (this.#fd < 0) return
    try {
      const fd = openFile(this.path, 'append', MODE)
      closeQuietly(this.#fd)
      this.#fd = fd
      this.#stat = fstatSync(fd)
      if (this.#stat.size === 0) this.#isCut = false
      this.#size = this.#stat.size
      this.#failure = ''
      this.#isDeleted = false
      this.#opened(fd)
    } catch (error) {
      this.#lookedAt = now() // a CommandError, perhaps since the folder is gone; checked again later
      this.#isDeleted = this.#stat.isFile() && linksOf(this.#fd) === 0
      this.#tell(messageOf(error))
    }
  }

  /** Once: this may be the log. */
  #tell(failure: string): void {
    const isTold = failure === this.#failure
    this.#failure = failure
    if (isTold) return
    log(`${this.path}: it was moved away, and cannot be opened again: ${failure}: the moved file is written`)
  }

  close(): void {
    if (this.#fd >= 0) closeQuietly(this.#fd)
    this.#fd = -1
  }

  #isTooLarge(more: number): boolean {
    return this.maxBytes > 0 && this.#size > 0 && this.#size + more > this.maxBytes
  }

  #look(): void {
    if (now() - this.#lookedAt < LOOK_EVERY_MS) return
    this.#lookedAt = now()
    if (!this.#isInPlace()) this.reopen()
    else this.#size = sizeOf(this.#fd) // it may have been truncated
  }

  #isInPlace(): boolean {
    try {
      const found = lstatSync(this.path)
      return found.dev === this.#stat.dev && found.ino === this.#stat.ino
    } catch {
      return false // ENOENT
    }
  }

  /** Renames the file, so that the older half stays readable. */
  #putAside(): void {
    if (!this.#stat.isFile()) return
    try {
      if (this.#isInPlace()) renameSync(this.path, `${this.path}.1`)
      this.reopen()
      if (fstatSync(this.#fd).nlink === 0) this.#empty()
    } catch {
      this.#size = 0 // EACCES: the folder is not ours. Checked again after as many bytes
    }
  }

  /** Truncates a file without a name whose folder is gone: its content can never be read. */
  #empty(): void {
    ftruncateSync(this.#fd)
    this.#size = 0
  }
}

/**
 * Cuts what is larger than a file may be, after line ends: 64 KiB of empty lines are 3 MB in a log. Lines are not cut.
 */
function inPieces(bytes: Buffer, most: number): Buffer[] {
  const pieces: Buffer[] = []
  let rest = bytes
  while (most > 0 && rest.length > most) {
    const end = rest.lastIndexOf(LF, most - 1) + 1 || rest.indexOf(LF) + 1 || rest.length
    pieces.push(rest.subarray(0, end))
    rest = rest.subarray(end)
  }
  return [...pieces, rest]
}

function sizeOf(fd: number): number {
  try {
    return fstatSync(fd).size
  } catch {
    return 0 // EIO, ESTALE: a network drive
  }
}

function linksOf(fd: number): number {
  try {
    return fstatSync(fd).nlink
  } catch {
    return 0 // as above
  }
}

function closeQuietly(fd: number): void {
  try {
    closeSync(fd)
  } catch {
    // EDQUOT of a network drive, which reports it only here: the descriptor is closed all the same.
    nothing()
  }
}
