// A file that processes print into, written by the master alone. Opened anew when it was moved away (logrotate needs no
// signal for it; copytruncate works too, since every write goes to the end), and bounded: Workerman's users had log
// files of hundreds of gigabytes. A full disk costs lines, never the server.

import { closeSync, fstatSync, ftruncateSync, lstatSync, renameSync, type Stats, writeSync } from 'node:fs'
import { now } from '../../loop/clock.ts'
import { openFile } from '../open-file.ts'

/** Root's group may read it: a log can hold secrets. */
const MODE = 0o640
/** How often the path is compared with the open file. */
const LOOK_EVERY_MS = 1000
const LF = 0x0a

export class OutputFile {
  readonly path: string
  /** Before the file grows over this it is put aside as `<path>.1`; 0 is without bound. */
  readonly maxBytes: number
  /** Bytes that could not be written since somebody last asked. */
  lostBytes = 0
  #fd: number
  #stat: Stats
  #size: number
  /** The last line was written in part. */
  #isCut = false
  #lookedAt = now()
  readonly #opened: (fd: number) => void

  /**
   * Throws a CommandError when it cannot be opened.
   *
   * @param opened is told the descriptor, now and whenever it is another one
   */
  constructor(path: string, maxBytes: number, opened: (fd: number) => void = ignore) {
    this.path = path
    this.maxBytes = maxBytes
    this.#opened = opened
    this.#fd = openFile(path, 'append', MODE)
    this.#stat = fstatSync(this.#fd)
    this.#size = this.#stat.size
    opened(this.#fd)
  }

  /** Appends all of it, or counts it as lost. Never throws. */
  write(text: string | Buffer): void {
    if (this.#fd < 0) return
    this.#look()
    for (const piece of inPieces(typeof text === 'string' ? Buffer.from(text) : text, this.maxBytes))
      this.#append(piece)
  }

  #append(piece: Buffer): void {
    if (this.#isTooLarge(piece.length)) {
      this.#size = sizeOf(this.#fd) // somebody may have truncated it meanwhile
      if (this.#isTooLarge(piece.length)) this.#putAside()
    }
    const bytes = this.#isCut ? Buffer.concat([Buffer.of(LF), piece]) : piece // the next line is whole again
    let written = 0
    try {
      while (written < bytes.length) written += writeSync(this.#fd, bytes, written)
      this.#isCut = false
    } catch {
      this.lostBytes += Math.min(piece.length, bytes.length - written) // ENOSPC, EIO: the disk may come back
      if (written > 0) this.#isCut = bytes[written - 1] !== LF
    }
    this.#size += written
  }

  /** Opens the path anew: somebody has moved the file. Goes on with the old one when that fails. */
  reopen(): void {
    if (this.#fd < 0) return
    try {
      const fd = openFile(this.path, 'append', MODE)
      closeQuietly(this.#fd)
      this.#fd = fd
      this.#stat = fstatSync(fd)
      if (this.#stat.size === 0) this.#isCut = false
      this.#size = this.#stat.size
      this.#opened(fd)
    } catch {
      this.#lookedAt = now() // a CommandError: the folder is gone, perhaps; looked at again later
    }
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

  /** The half that is older stays readable under another name. */
  #putAside(): void {
    if (!this.#stat.isFile()) return
    try {
      if (this.#isInPlace()) renameSync(this.path, `${this.path}.1`)
      this.reopen()
      if (fstatSync(this.#fd).nlink === 0) this.#empty()
    } catch {
      this.#size = 0 // EACCES: the folder is not ours. Looked at again when as much has been written
    }
  }

  /** It has no name, and its folder is gone: nobody will read what it has. */
  #empty(): void {
    ftruncateSync(this.#fd)
    this.#size = 0
  }
}

/** What is larger than a file may be, cut behind lines: 64 KiB of empty ones are 3 MB in a log. A line is not cut. */
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
    return 0 // EIO, ESTALE: a drive on a network
  }
}

function closeQuietly(fd: number): void {
  try {
    closeSync(fd)
  } catch {
    ignore() // EDQUOT of a drive on a network, which tells it only at the end: the descriptor is gone all the same
  }
}

function ignore(): void {
  // Nobody wants to know.
}
