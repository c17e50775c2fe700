// Keys of TLS session tickets. A client that comes back may reach any process of its port, also one that a reload has
// made since: so the master has the keys (own ones resumed 0 of 6 sessions across workers, shared ones 6 of 6).

import { hkdfSync, randomBytes } from 'node:crypto'
import type { GroupKey } from '../messages.ts'

/** How long a stolen key is of use: it opens what was sent under it before TLS 1.3. */
export const ROTATE_TICKETS_MS = 12 * 3_600_000

/** node:tls takes 16 bytes of name, 16 of HMAC key and 16 of AES key. */
const KEY_BYTES = 48

export class Tickets {
  #secret: Buffer

  /** @param secret of an earlier master, in base64: its clients' sessions go on */
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

  /** In base64. Each group has its own: what one lets in is no business of another. */
  keysFor({ name, listen, nth }: GroupKey): string {
    const info = JSON.stringify(['millrace tickets', name, listen, nth])
    return Buffer.from(hkdfSync('sha256', this.#secret, '', info, KEY_BYTES)).toString('base64')
  }
}
