// Sessions of visitors: unguessable ids, never accepted from a client that made one up, in a cookie that is safe by
// default.

import { crypto } from '../builtins.ts'
import { isEqual, sign } from '../signing.ts'
import { Session } from './session.ts'
import type { SessionStore } from './session-store.ts'

export interface SessionOptions {
  readonly store: SessionStore
  /** Default: `sid`, which does not reveal what the server is made of. */
  readonly cookieName?: string
  /** Seconds without a request after which a session ends. Default: 1440, as in Workerman. */
  readonly lifetime?: number
  /** Cookie attributes. Defaults: `/`, no domain (this host only), HttpOnly, SameSite=Lax, Secure if the request is. */
  readonly path?: string
  readonly domain?: string
  readonly sameSite?: 'Strict' | 'Lax' | 'None'
  /** Sign the cookie: the first is the newest and signs, all are accepted. An id is unguessable even without them. */
  readonly secrets?: readonly string[]
}

/** The part of a lifetime after which a session that is only read is stored again, to prolong it. */
const RENEW_AFTER = 0.25

/** Sessions whose last write is remembered, about 2 MB. One that was forgotten is written once more than necessary. */
const MOST_REMEMBERED = 10_000

/** The form of our ids: 32 random bytes. */
const ID = /^[\w-]{43}$/

export class Sessions {
  readonly #options: Required<Omit<SessionOptions, 'domain'>> & { readonly domain: string | null }
  /** When each session was last stored, by id: only those this process has stored recently. */
  readonly #storedAt = new Map<string, number>()

  constructor({
    store,
    cookieName = 'sid',
    lifetime = 1440,
    path = '/',
    domain,
    sameSite = 'Lax',
    secrets = [],
  }: SessionOptions) {
    this.#options = { store, cookieName, lifetime, path, domain: domain ?? null, sameSite, secrets }
  }

  /** Returns the session of a cookie; a new one if there is none, it has expired, or the id is not ours. */
  async load(cookies: Readonly<Record<string, string>>): Promise<Session> {
    const { store, cookieName } = this.#options
    const id = this.#verified(cookies[cookieName] ?? '')
    const data = id === null ? null : await store.read(id)
    return id !== null && data !== null ? new Session(id, data, false, newId) : new Session(newId(), {}, true, newId)
  }

  /** Stores what has changed. Resolves with the Set-Cookie value if the client must be sent one, otherwise null. */
  async commit(session: Session, isEncrypted: boolean): Promise<string | null> {
    const { store, lifetime } = this.#options
    const id = session.getId()
    for (const former of session.former.splice(0)) await store.destroy(former)
    if (session.isEmpty) {
      if (!session.isNew && session.isChanged) await store.destroy(id)
      return !session.isNew && session.isChanged ? this.#cookie('', 0, isEncrypted) : null
    }
    if (!session.isChanged && !this.#isDue(id)) return null
    await store.write(id, session.all(), lifetime)
    this.#remember(id)
    return this.#cookie(this.#signed(id), lifetime, isEncrypted)
  }

  #isDue(id: string): boolean {
    return Date.now() - (this.#storedAt.get(id) ?? 0) > this.#options.lifetime * 1000 * RENEW_AFTER
  }

  #remember(id: string): void {
    this.#storedAt.delete(id)
    this.#storedAt.set(id, Date.now())
    for (const oldest of this.#storedAt.keys()) {
      if (this.#storedAt.size <= MOST_REMEMBERED) break
      this.#storedAt.delete(oldest)
    }
  }

  #cookie(value: string, maxAge: number, isEncrypted: boolean): string {
    const { cookieName, path, domain, sameSite } = this.#options
    const isSecure = isEncrypted || sameSite === 'None'
    const where = domain === null ? '' : `; Domain=${domain}`
    return `${cookieName}=${value}${where}; Max-Age=${maxAge}; Path=${path}; SameSite=${sameSite}${isSecure ? '; Secure' : ''}; HttpOnly`
  }

  #signed(id: string): string {
    const [newest] = this.#options.secrets
    return newest === undefined ? id : `${id}.${sign(id, newest)}`
  }

  #verified(cookie: string): string | null {
    const { secrets } = this.#options
    const [id = '', signature = ''] = cookie.split('.')
    if (!ID.test(id)) return null
    if (secrets.length === 0) return id
    return secrets.some((secret) => isEqual(signature, sign(id, secret))) ? id : null
  }
}

function newId(): string {
  return crypto().randomBytes(32).toString('base64url')
}
