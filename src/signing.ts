// Message authentication codes and their comparison: HMAC with SHA-256 (RFC 2104). It does no I/O, so protocols may
// import it.

import { crypto } from './builtins.ts'
import { bytesOf } from './encoded.ts'

/**
 * The 32 bytes of an HMAC over all parts, one after another. The parts must say where they end (a length before each),
 * or other parts make the same code.
 */
export function macOf(secret: string | Uint8Array, parts: Iterable<string | Uint8Array>): Buffer {
  const hmac = crypto().createHmac('sha256', secret)
  for (const part of parts) hmac.update(part)
  return hmac.digest()
}

/** The HMAC of a text in base64url: 43 characters, fit for a cookie. */
export function sign(text: string, secret: string): string {
  return macOf(secret, [text]).toString('base64url')
}

/** Compares in a time that depends only on the lengths: it must not tell how much of a guess was right. */
export function isEqual(given: string | Uint8Array, wanted: string | Uint8Array): boolean {
  const [left, right] = [bytesOf(given), bytesOf(wanted)]
  return left.length === right.length && crypto().timingSafeEqual(left, right)
}
