// The delimiters of a multipart body (RFC 2046 section 5.1.1), looked at as it passes: the parser takes each line that begins with
// one for one, whatever comes behind, and loses the part that it ends or begins without a word.

import { ProtocolError } from '../errors.ts'

const CR_LF = 0x0d_0a
const DASHES = 0x2d_2d

export class Delimiters {
  readonly #delimiter: Buffer
  /** What may be the beginning of one. A body may begin with one. */
  #tail: Buffer = Buffer.from('\r\n')
  #isClosed = false

  constructor(boundary: string) {
    this.#delimiter = Buffer.from(`\r\n--${boundary}`, 'latin1')
  }

  /** Those of a type that names a boundary; else null. */
  static of(contentType: string): Delimiters | null {
    const [, quoted, token = ''] = /;[ \t]*boundary=(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))/i.exec(contentType) ?? []
    const boundary = quoted?.replace(/\\(.)/g, '$1') ?? token
    return boundary === '' ? null : new Delimiters(boundary)
  }

  /** The next bytes. Throws ProtocolError for a delimiter with more on its line, be it only blanks. */
  check(bytes: Uint8Array): void {
    if (this.#isClosed) return
    const most = this.#delimiter.length + 1 // of one that is not whole, with the two bytes that tell what it is
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
      else if (next !== CR_LF)
        throw new ProtocolError(
          'ERR_BAD_MULTIPART',
          'a line of a multipart body begins with its boundary, and goes on',
          {
            statusHint: 400,
          },
        )
    }
  }
}
