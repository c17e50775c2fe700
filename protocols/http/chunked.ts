// The chunked transfer coding (RFC 9112 section 7.1), decoded as bytes arrive: sizes in hexadecimal, extensions that
// are checked and dropped, trailers that are kept apart. Bare LF, white space that no extension follows and anything
// else on which parsers disagree is refused with 400.

import { ProtocolError } from '../../src/errors.ts'
import { Accumulator } from '../../src/protocol/accumulator.ts'
import { NEED_MORE } from '../../src/protocol.ts'
import { type Fields, fieldsOf } from './fields.ts'
import { type HeadLimits, HeadParser } from './head.ts'

const CR = 0x0d
const LF = 0x0a

/** Bytes of extensions in one chunk. Nobody uses them. */
const MAX_EXTENSION = 256
/**
 * Bytes of extensions in a whole body, the total that Go allows: without it, a body of tiny chunks could be mostly
 * extensions (CVE-2023-39326).
 */
const MAX_EXTENSIONS = 16_384
/** Digits of a size, leading zeros included: more than any size that fits into 53 bits needs. */
const MAX_DIGITS = 16

const TOKEN = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+"
/** chunk-ext, with the white space around `;` and `=` that RFC 9112 requires parsers to accept. */
const EXTENSION = new RegExp(
  `^(?:[ \\t]*;[ \\t]*${TOKEN}(?:[ \\t]*=[ \\t]*(?:${TOKEN}|"(?:[\\t \\x21\\x23-\\x5b\\x5d-\\x7e\\x80-\\xff]|\\\\[\\t \\x21-\\x7e\\x80-\\xff])*"))?)+$`,
)

const enum Await {
  Size = 0,
  Extension = 1,
  SizeLf = 2,
  Data = 3,
  DataCr = 4,
  DataLf = 5,
  Trailers = 6,
  Nothing = 7,
}

export class ChunkedDecoder {
  readonly #limits: HeadLimits
  #state: Await = Await.Size
  #size = 0
  #digits = 0
  #extension = ''
  #extensionBytes = 0
  #trailerBytes: Accumulator | null = null
  #trailerParser: HeadParser | null = null
  trailers: Fields | null = null

  constructor(limits: HeadLimits) {
    this.#limits = limits
  }

  get isDone(): boolean {
    return this.#state === Await.Nothing
  }

  /**
   * Decodes from `start` and passes data, lent, to `take`. Returns where it stopped: after the body, or at the end of
   * `bytes`.
   */
  feed(bytes: Buffer, start: number, take: (data: Buffer) => void): number {
    let at = start
    while (at < bytes.length && this.#state !== Await.Nothing) {
      if (this.#state === Await.Data) {
        const end = Math.min(bytes.length, at + this.#size)
        take(bytes.subarray(at, end))
        this.#size -= end - at
        at = end
        if (this.#size === 0) this.#state = Await.DataCr
      } else if (this.#state === Await.Trailers) at = this.#takeTrailers(bytes, at)
      else this.#takeByte(bytes[at++] as number)
    }
    return at
  }

  #takeByte(byte: number): void {
    switch (this.#state) {
      case Await.Size:
        return this.#takeSize(byte)
      case Await.Extension:
        return this.#takeExtension(byte)
      case Await.SizeLf:
        return this.#endSizeLine(byte)
      case Await.DataCr:
        if (byte !== CR) throw bad('no CR LF behind the data of a chunk')
        this.#state = Await.DataLf
        return
      case Await.DataLf:
        if (byte !== LF) throw bad('no CR LF behind the data of a chunk')
        this.#state = Await.Size
        this.#digits = 0
        return
    }
  }

  #takeSize(byte: number): void {
    const digit = hexDigit(byte)
    if (digit >= 0) {
      if (++this.#digits > MAX_DIGITS) throw bad('a chunk size of too many digits')
      this.#size = this.#size * 16 + digit
      if (!Number.isSafeInteger(this.#size)) throw bad('a chunk size beyond all bounds')
      return
    }
    if (this.#digits === 0) throw bad('a chunk without a size')
    if (byte === CR) this.#state = Await.SizeLf
    else {
      this.#extension = ''
      this.#state = Await.Extension
      this.#takeExtension(byte)
    }
  }

  #takeExtension(byte: number): void {
    if (byte === CR) {
      if (!EXTENSION.test(this.#extension)) throw bad('a chunk extension that is none')
      this.#state = Await.SizeLf
      return
    }
    if ((byte < 0x20 && byte !== 0x09) || byte === 0x7f) throw bad('a control character in a chunk extension')
    if (this.#extension === '' && byte !== 0x3b && byte !== 0x20 && byte !== 0x09)
      throw bad('a chunk size that is no number')
    this.#extension += String.fromCharCode(byte)
    if (this.#extension.length > MAX_EXTENSION || ++this.#extensionBytes > MAX_EXTENSIONS)
      throw bad('chunk extensions that are too long')
  }

  #endSizeLine(byte: number): void {
    if (byte !== LF) throw bad('a CR without its LF behind a chunk size')
    this.#state = this.#size === 0 ? Await.Trailers : Await.Data
  }

  /** Field lines up to an empty one, which usually comes at once. */
  #takeTrailers(bytes: Buffer, start: number): number {
    if (this.#trailerParser === null) {
      this.#trailerParser = new HeadParser(this.#limits)
      this.#trailerParser.resetForTrailers()
    }
    this.#trailerBytes ??= new Accumulator()
    const before = this.#trailerBytes.length
    this.#trailerBytes.append(bytes.subarray(start, start + this.#limits.maxHeadBytes + 1 - before))
    const view = this.#trailerBytes.view()
    const length = this.#trailerParser.parse(view)
    if (length === NEED_MORE) return bytes.length
    this.trailers = fieldsOf(view.toString('latin1', 0, length), 0)
    this.#trailerBytes = null
    this.#trailerParser = null
    this.#state = Await.Nothing
    return start + length - before
  }
}

/** What a byte of text stands for in base 16; -1 if it is no digit. */
export function hexDigit(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30
  const letter = byte | 0x20
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1
}

function bad(message: string): ProtocolError {
  return new ProtocolError('ERR_BAD_CHUNK', message, { statusHint: 400 })
}
