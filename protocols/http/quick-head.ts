// The fast path: parses a typical head in one pass over bytes that are all there. Typical means origin-form, HTTP/1.1,
// and no field about framing except a length. Anything else, wrong or merely rare, is left to HeadParser from its first
// byte on. So this accepts only what HeadParser would accept, and both are run over the same vectors.

import type { QuickBuffer } from '../../src/builtins.ts'
import { FieldSection, type Noted } from './fields.ts'
import { CLASSES, Class, type HeadLimits, isNamed, RequestHead } from './head.ts'
import { isHost } from './host.ts'

const TAB = 0x09
const LF = 0x0a
const CR = 0x0d
const SPACE = 0x20
const SLASH = 0x2f
const COLON = 0x3a
const DEL = 0x7f
const VERSION = Array.from(Buffer.from(' HTTP/1.1\r\n'))
/** First letters of CONNECT and TRACE, and of no other common method. */
const RARE_METHODS = [0x43, 0x54]
const MAX_METHOD = 7
/** Most digits of a length that a number holds exactly. */
const MAX_DIGITS = 15

/** Most bytes of version and fields that are compared with the previous ones first. */
const REPEATED_MOST = 4096
/** Below this many bytes a loop is faster than a call: one nanosecond per byte against 80. */
const LOOP_BELOW = 64
/** From this many bytes on it is faster to make a text than to compare it. */
const TEXT_LOOP_BELOW = 32
const MOST_SKIPPED = 31

/** One instance for all connections: the only state kept between two heads is what was valid in the previous ones. */
export class QuickHeads implements Noted {
  contentLength = -1
  readonly isChunked = false
  hasClose = false
  readonly hasKeepAlive = false
  readonly hasUpgrade = false
  readonly offersWebSocket = false
  readonly expectsContinue = false
  /** Bytes of the head taken last. */
  size = 0
  readonly #limits: HeadLimits
  #methodEnd = 0
  #targetEnd = 0
  #hasHost = false
  #hasType = false
  #host = ''
  #method = 'GET'
  #target = '/'
  /**
   * The bytes after the last target, from the version to the empty line: a client's next request usually repeats them.
   */
  readonly #last = Buffer.alloc(REPEATED_MOST)
  #lastSize = 0
  #lastSection: FieldSection | null = null
  /** For this many heads nothing is compared or kept: where heads differ, that would be wasted work. */
  #skip = 0
  #nextSkip = 0

  constructor(limits: HeadLimits) {
    this.#limits = limits
  }

  /** Returns the head at `start`, or null if it is incomplete or not a typical one. */
  take(bytes: Buffer, start: number): RequestHead | null {
    const limit = Math.min(bytes.length, start + this.#limits.maxHeadBytes)
    if (!this.#findTarget(bytes, start, limit)) return null
    this.#method = textAt(bytes, start, this.#methodEnd, this.#method)
    const isSkipped = this.#skip > 0
    if (isSkipped) this.#skip--
    else if (this.#isRepeated(bytes, this.#targetEnd, limit)) return this.#takeRepeated(bytes, start)
    else {
      this.#skip = this.#nextSkip
      this.#nextSkip = Math.min(2 * this.#nextSkip + 1, MOST_SKIPPED)
    }
    const end = this.#look(bytes, this.#targetEnd, limit)
    return end === 0 ? null : this.#takeOther(bytes, start, end, !isSkipped)
  }

  #takeRepeated(bytes: Buffer, start: number): RequestHead {
    this.#nextSkip = 0
    this.size = this.#targetEnd + this.#lastSize - start
    this.#target = textAt(bytes, this.#methodEnd + 1, this.#targetEnd, this.#target)
    return new RequestHead(this.#method, this.#target, 1, this.#lastSection as FieldSection)
  }

  #takeOther(bytes: Buffer, start: number, end: number, mayRepeat: boolean): RequestHead {
    const text = (bytes as QuickBuffer).latin1Slice(start, end)
    const target = text.substring(this.#methodEnd + 1 - start, this.#targetEnd - start)
    const section = new FieldSection(text, this.#targetEnd + VERSION.length - start, this)
    this.size = end - start
    if (mayRepeat && end - this.#targetEnd <= REPEATED_MOST) this.#remember(bytes, this.#targetEnd, end, section)
    return new RequestHead(this.#method, target, 1, section)
  }

  #findTarget(bytes: Buffer, start: number, limit: number): boolean {
    const classes = CLASSES
    let at = start
    while (at < limit && (classes[bytes[at] as number] as number) & Class.Token) at++
    const size = at - start
    if (size === 0 || size > MAX_METHOD || bytes[at] !== SPACE) return false
    if (size >= 5 && RARE_METHODS.includes(bytes[start] as number)) return false
    this.#methodEnd = at
    if (bytes[++at] !== SLASH) return false
    while (at < limit && (classes[bytes[at] as number] as number) & Class.Target) at++
    this.#targetEnd = at
    return at - this.#methodEnd - 1 <= this.#limits.maxTargetBytes
  }

  #isRepeated(bytes: Buffer, start: number, limit: number): boolean {
    const last = this.#last
    const size = this.#lastSize
    const end = start + size
    // Four bytes rule out nearly all others.
    if (size === 0 || end > limit || bytes[end - 1] !== LF || bytes[end - 3] !== LF) return false
    if (bytes[start + VERSION.length] !== last[VERSION.length] || bytes[end - 5] !== last[size - 5]) return false
    if (size >= LOOP_BELOW) return last.compare(bytes, start, end, 0, size) === 0
    for (let i = 0; i < size; i++) if (bytes[start + i] !== last[i]) return false
    return true
  }

  /** Returns the end of the head, after the empty line, or 0; `start` is where the version begins. */
  #look(bytes: Buffer, start: number, limit: number): number {
    if (start + VERSION.length > limit) return 0
    for (let i = 0; i < VERSION.length; i++) if (bytes[start + i] !== VERSION[i]) return 0
    this.contentLength = -1
    this.hasClose = this.#hasHost = this.#hasType = false
    const end = this.#findFields(bytes, start + VERSION.length, limit)
    return this.#hasHost ? end : 0
  }

  #remember(bytes: Buffer, start: number, end: number, section: FieldSection): void {
    const size = end - start
    if (size >= LOOP_BELOW) bytes.copy(this.#last, 0, start, end)
    else for (let i = 0; i < size; i++) this.#last[i] = bytes[start + i] as number
    this.#lastSize = size
    this.#lastSection = section
  }

  /** Returns the end of the head, after the empty line, or 0. */
  #findFields(bytes: Buffer, start: number, limit: number): number {
    const classes = CLASSES
    let at = start
    for (let left = this.#limits.maxFields; at + 1 < limit; left--) {
      if (bytes[at] === CR) return bytes[at + 1] === LF ? at + 2 : 0
      const nameAt = at
      while (at < limit && (classes[bytes[at] as number] as number) & Class.Token) at++
      if (left === 0 || at === nameAt || at === limit || bytes[at] !== COLON) return 0
      const nameEnd = at++
      at = valueEnd(bytes, at, limit)
      if (at + 1 >= limit || bytes[at] !== CR || bytes[at + 1] !== LF) return 0
      if (!this.#note(bytes, nameAt, nameEnd, at)) return 0
      at += 2
    }
    return 0
  }

  /** Returns false for a field that HeadParser must judge. Their lengths rule out almost all others. */
  #note(bytes: Buffer, nameAt: number, nameEnd: number, end: number): boolean {
    switch (nameEnd - nameAt) {
      case 4:
        return !isNamed(bytes, nameAt, 'host') || this.#noteHost(bytes, nameEnd + 1, end)
      case 6:
        return !isNamed(bytes, nameAt, 'expect')
      case 7:
        return !isNamed(bytes, nameAt, 'upgrade')
      case 10:
        return !isNamed(bytes, nameAt, 'connection') || this.#noteConnection(bytes, nameEnd + 1, end)
      case 12:
        return !isNamed(bytes, nameAt, 'content-type') || this.#noteType()
      case 14:
        if (isNamed(bytes, nameAt, 'content-length')) return this.#noteLength(bytes, nameEnd + 1, end)
        return !isNamed(bytes, nameAt, 'content_length')
      case 17:
        return !isNamed(bytes, nameAt, 'transfer-encoding') && !isNamed(bytes, nameAt, 'transfer_encoding')
      default:
        return true
    }
  }

  /** Most requests of a connection, and most connections, name the same host. */
  #noteHost(bytes: Buffer, from: number, to: number): boolean {
    if (this.#hasHost) return false
    this.#hasHost = true
    const start = skipBlanks(bytes, from, to)
    const end = trimBlanks(bytes, start, to)
    const host = textAt(bytes, start, end, this.#host)
    if (host !== this.#host && !isHost(host)) return false
    this.#host = host
    return end > start
  }

  #noteConnection(bytes: Buffer, from: number, to: number): boolean {
    const start = skipBlanks(bytes, from, to)
    const size = trimBlanks(bytes, start, to) - start
    if (size === 10) return isNamed(bytes, start, 'keep-alive')
    if (size !== 5 || !isNamed(bytes, start, 'close')) return false
    this.hasClose = true
    return true
  }

  #noteType(): boolean {
    const isFirst = !this.#hasType
    this.#hasType = true
    return isFirst
  }

  #noteLength(bytes: Buffer, from: number, to: number): boolean {
    const start = skipBlanks(bytes, from, to)
    const end = trimBlanks(bytes, start, to)
    const size = end - start
    if (this.contentLength >= 0 || size === 0 || size > MAX_DIGITS || (size > 1 && bytes[start] === 0x30)) return false
    let length = 0
    for (let at = start; at < end; at++) {
      const digit = (bytes[at] as number) - 0x30
      if (digit < 0 || digit > 9) return false
      length = length * 10 + digit
    }
    this.contentLength = length
    return true
  }
}

/**
 * Where the first byte is that cannot be in a value (Class.Value): most bytes of a head are in values, and two
 * comparisons are faster than a table.
 */
function valueEnd(bytes: Buffer, from: number, limit: number): number {
  let at = from
  for (; at < limit; at++) {
    const byte = bytes[at] as number
    if (byte < SPACE ? byte !== TAB : byte === DEL) return at
  }
  return at
}

function skipBlanks(bytes: Buffer, from: number, to: number): number {
  let at = from
  while (at < to && (bytes[at] === SPACE || bytes[at] === TAB)) at++
  return at
}

function trimBlanks(bytes: Buffer, from: number, to: number): number {
  let end = to
  while (end > from && (bytes[end - 1] === SPACE || bytes[end - 1] === TAB)) end--
  return end
}

/** The latin1 text of these bytes; returns `known` itself if they are equal. */
function textAt(bytes: Buffer, start: number, end: number, known: string): string {
  const size = end - start
  if (size === known.length && size < TEXT_LOOP_BELOW && isText(bytes, start, known)) return known
  return (bytes as QuickBuffer).latin1Slice(start, end)
}

function isText(bytes: Buffer, start: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[start + i] !== text.charCodeAt(i)) return false
  return true
}
