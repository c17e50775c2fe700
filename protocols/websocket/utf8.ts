// UTF-8 (RFC 3629) checked as it arrives: RFC 6455 section 8.1 wants invalid text refused, and we do so at the first
// bad byte, however the text was split.

/** Below this many bytes a loop beats the call into the decoder. */
const SHORT = 32

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** The text of complete bytes; null if they are not UTF-8. */
export function textOf(bytes: Buffer): string | null {
  if (bytes.length < SHORT && isAscii(bytes)) return bytes.toString('latin1')
  try {
    return decoder.decode(bytes)
  } catch {
    return null // ERR_ENCODING_INVALID_ENCODED_DATA
  }
}

function isAscii(bytes: Buffer): boolean {
  for (let i = 0; i < bytes.length; i++) if ((bytes[i] as number) > 0x7f) return false
  return true
}

/** Checks a text that arrives in pieces. */
export class Utf8Checker {
  /** Continuation bytes still to come. */
  #left = 0
  /** Bounds of the next continuation byte: narrower than 0x80 to 0xbf after some first bytes. */
  #low = 0x80
  #high = 0xbf

  /** False at the first byte that is not valid UTF-8 there. */
  accepts(bytes: Buffer): boolean {
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i] as number
      if (this.#left === 0) {
        if (byte > 0x7f && !this.#begin(byte)) return false
      } else {
        if (byte < this.#low || byte > this.#high) return false
        this.#left--
        this.#low = 0x80
        this.#high = 0xbf
      }
    }
    return true
  }

  /** Whether the text ends on a character boundary. */
  get isWhole(): boolean {
    return this.#left === 0
  }

  /** RFC 3629 section 4: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
  #begin(byte: number): boolean {
    if (byte < 0xc2 || byte > 0xf4) return false
    this.#left = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3
    this.#low = byte === 0xe0 ? 0xa0 : byte === 0xf0 ? 0x90 : 0x80
    this.#high = byte === 0xed ? 0x9f : byte === 0xf4 ? 0x8f : 0xbf
    return true
  }
}
