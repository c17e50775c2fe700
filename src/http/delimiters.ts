// Checks the delimiters of a multipart body (RFC 2046 section 5.1.1) as it passes, and the heads behind them, and
// counts its parts. The parser takes every line that begins with the boundary for a delimiter, whatever follows on it,
// and silently loses the part next to it; it also leaves out parts whose head it does not understand, and the end of a
// head that is too long.

import { ProtocolError } from '../errors.ts'

const CR_LF = 0x0d_0a
const DASHES = 0x2d_2d
const HEAD_END = Buffer.from('\r\n\r\n')

/** Limit of a part's header lines, in bytes. */
export const MAX_HEADER_BYTES = 81_920

export class Delimiters {
  readonly #delimiter: Buffer
  /** The last bytes, which may begin a delimiter. A body may begin with one, so there is a line end before it. */
  #tail: Buffer = Buffer.from('\r\n')
  /** How many bytes of the body have been checked. */
  #checked = 0
  /** Where in the body the head of a part begins, at the line end before it; -1 while none is open. */
  #headAt = -1
  #isClosed = false
  #parts = 0

  constructor(boundary: string) {
    this.#delimiter = Buffer.from(`\r\n--${boundary}`, 'latin1')
  }

  /** Null for a content type without a boundary. */
  static of(contentType: string): Delimiters | null {
    const [, quoted, token = ''] = /;[ \t]*boundary=(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))/i.exec(contentType) ?? []
    const boundary = quoted?.replace(/\\(.)/g, '$1') ?? token
    return boundary === '' ? null : new Delimiters(boundary)
  }

  /** How many parts have begun. */
  get parts(): number {
    return this.#parts
  }

  /** Throws ProtocolError if anything follows a delimiter on its line, even blanks, and if a head is too long. */
  check(bytes: Uint8Array): void {
    if (this.#isClosed) return
    const most = this.#delimiter.length + 1 // of a delimiter and the two bytes after it, all but one
    const seam = Buffer.concat([this.#tail, bytes.subarray(0, most)])
    this.#scan(seam, this.#checked - this.#tail.length)
    if (bytes.length > most) this.#scan(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), this.#checked)
    this.#tail = bytes.length >= most ? Buffer.from(bytes.subarray(-most)) : seam.subarray(-most)
    this.#checked += bytes.length
  }

  /** `bytes` begin at `start` in the body. */
  #scan(bytes: Buffer, start: number): void {
    const { length } = this.#delimiter
    for (let from = 0; !this.#isClosed; ) {
      const at = bytes.indexOf(this.#delimiter, from)
      this.#checkHead(at < 0 ? bytes : bytes.subarray(0, at), start)
      if (at < 0 || at + length + 2 > bytes.length) return
      from = at + length
      const next = bytes.readUInt16BE(from)
      if (next === DASHES) this.#isClosed = true
      else if (next === CR_LF) this.#beginPart(start + from)
      else throw bad('a line of a multipart body begins with its boundary, and goes on')
    }
  }

  #beginPart(headAt: number): void {
    this.#parts++
    this.#headAt = headAt
  }

  /** Looks for the end of an open head. Of the line ends around the head one counts: as many as there are lines. */
  #checkHead(bytes: Buffer, start: number): void {
    if (this.#headAt < 0) return
    const end = bytes.indexOf(HEAD_END, Math.max(0, this.#headAt - start))
    const isOpen = end < 0
    const size = start + (isOpen ? bytes.length - HEAD_END.length + 1 : end) - this.#headAt
    if (size > MAX_HEADER_BYTES) throw bad('the head of a part of a form is too long')
    if (!isOpen) this.#headAt = -1
  }
}

function bad(message: string): ProtocolError {
  return new ProtocolError('ERR_BAD_MULTIPART', message, { statusHint: 400 })
}
