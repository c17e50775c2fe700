// Checks the delimiters of a multipart body (RFC 2046 section 5.1.1) as it passes, and counts its parts. The parser
// takes every line that begins with the boundary for a delimiter, whatever follows on it, and silently loses the part
// next to it; it also leaves out parts whose head it does not understand.

import { ProtocolError } from '../errors.ts'

const CR_LF = 0x0d_0a
const DASHES = 0x2d_2d

export class Delimiters {
  readonly #delimiter: Buffer
  /** The last bytes, which may begin a delimiter. A body may begin with one, so there is a line end before it. */
  #tail: Buffer = Buffer.from('\r\n')
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

  /** Throws ProtocolError if anything follows a delimiter on its line, even blanks. */
  check(bytes: Uint8Array): void {
    if (this.#isClosed) return
    const most = this.#delimiter.length + 1 // of a delimiter and the two bytes after it, all but one
    const seam = Buffer.concat([this.#tail, bytes.subarray(0, most)])
    this.#scan(seam)
    if (bytes.length > most) this.#scan(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
    this.#tail = bytes.length >= most ? Buffer.from(bytes.subarray(-most)) : seam.subarray(-most)
  }

  #scan(bytes: Buffer): void {
    const { length } = this.#delimiter
    for (let at = bytes.indexOf(this.#delimiter); at >= 0; at = bytes.indexOf(this.#delimiter, at + length)) {
      if (at + length + 2 > bytes.length || this.#isClosed) return
      const next = bytes.readUInt16BE(at + length)
      if (next === DASHES) this.#isClosed = true
      else if (next === CR_LF) this.#parts++
      else throw goesOn()
    }
  }
}

function goesOn(): ProtocolError {
  const message = 'a line of a multipart body begins with its boundary, and goes on'
  return new ProtocolError('ERR_BAD_MULTIPART', message, { statusHint: 400 })
}
