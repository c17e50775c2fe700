// Keys of TLS session tickets. A client that returns may reach any process of its port, including one started later by
// a reload, so the master holds the keys (with separate keys 0 of 6 sessions resumed across workers, with shared ones 6
// of 6).

import { hkdfSync, randomBytes } from 'node:crypto'
import type { GroupKey } from '../messages.ts'

/** How long a stolen key is of use: it decrypts what was sent under it before TLS 1.3. */
export const ROTATE_TICKETS_MS = 12 * 3_600_000

/** node:tls takes 16 bytes of name, 16 of HMAC key and 16 of AES key. */
const KEY_BYTES = 48

export class Tickets {
  #secret: Buffer

  /** @param secret of an earlier master, in base64, so that its clients' sessions resume */
  constructor(secret?: string) {
    this.#secret = secret === undefined ? randomBytes(32) : Buffer.from(secret, 'base64')
  }

  /** In base64. */
  get secret(): string {
    return this.#secret.toString('base64')
  }

  rotate(): void {
    this.#secret = randomBytes(32)
  }

  /** In base64. Each group has its own keys: a session with one group must not resume with another. */
  keysFor({ name, listen, nth }: GroupKey): string {
    const info = JSON.stringify(['millrace tickets', name, listen, nth])
    return Buffer.from(hkdfSync('sha256', this.#secret, '', info, KEY_BYTES)).toString('base64')
  }
}
