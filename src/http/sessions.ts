// Sessions of visitors: unguessable ids, never accepted from a client that made one up, in a cookie that is safe by
// default.

import { crypto } from '../builtins.ts'
import { UsageError } from '../errors.ts'
import {
  checkOptions,
  hasMethods,
  integerFrom,
  isListOfStrings,
  isObject,
  isString,
  oneOf,
  type Rule,
  rule,
} from '../options.ts'
import { isEqual, sign } from '../signing.ts'
import { StoredSession } from './session.ts'
import type { SessionData, SessionStore } from './session-store.ts'

/** What `new Sessions({ ... })` takes. Wrong ones are ERR_UNKNOWN_OPTION and ERR_BAD_OPTION. */
export interface SessionOptions {
  /** Where data is kept between requests. */
  readonly store: SessionStore
  /** Default: `sid`, which does not reveal what the server is made of. */
  readonly cookieName?: string
  /**
   * Seconds without a request for which a session lives on. It may be a quarter more, since not every request stores it
   * anew. Default: 1440, as in Workerman.
   */
  readonly lifetime?: number
  /** Cookie attributes. Defaults: `/`, no domain (this host only), HttpOnly, SameSite=Lax, Secure if the request is. */
  readonly path?: string
  /** Also sends the cookie to subdomains of this domain. Default: none, only the host of the request. */
  readonly domain?: string
  /** Which requests from other sites carry the cookie. Default `Lax`; with `None` it is always Secure. */
  readonly sameSite?: 'Strict' | 'Lax' | 'None'
  /** Sign the cookie: the first is the newest and signs, all are accepted. An id is unguessable even without them. */
  readonly secrets?: readonly string[]
}

/** RFC 6265bis section 4.1.1: a name is a token (RFC 9110 section 5.6.2), an attribute has no `;` and no controls. */
const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/
const ATTRIBUTE = /^[\x20-\x3a\x3c-\x7e]+$/
const isAttribute = (value: unknown): value is string => isString(value) && ATTRIBUTE.test(value)

const RULES = {
  store: rule(
    (value) => hasMethods(value, 'read', 'write', 'destroy'),
    'a SessionStore: new MemorySessionStore(), say',
  ),
  cookieName: rule((value) => isString(value) && TOKEN.test(value), 'a name without blanks and separators'),
  lifetime: integerFrom(1),
  path: rule((value) => isAttribute(value) && value.startsWith('/'), `a path, without ';'`),
  domain: rule(isAttribute, `a name of a host, without ';'`),
  sameSite: oneOf('Strict', 'Lax', 'None'),
  secrets: {
    ...rule(
      (value) => isListOfStrings(value) && !(value as string[]).includes(''),
      'a list of strings, none of them empty',
    ),
    isSecret: true,
  },
} satisfies Record<keyof SessionOptions, Rule>

/** The part of a lifetime after which a session that is only read is stored again, to prolong it. */
const RENEW_AFTER = 0.25

/** Sessions whose last write is remembered, about 2 MB. One that was forgotten is written once more than necessary. */
const MOST_REMEMBERED = 10_000

/** The form of our ids: 32 random bytes. */
const ID = /^[\w-]{43}$/

/** For `http({ sessions })`: gives each visitor a session, and its id in a cookie. */
export class Sessions {
  readonly #options: Required<Omit<SessionOptions, 'domain'>> & {
    /** Seconds from when it was stored: the last request may have come just before it was due to be stored again. */
    readonly keptFor: number
    readonly domain: string | null
    readonly isAlwaysSecure: boolean
  }
  /** When each session was last stored, by id: only those this process has stored recently. */
  readonly #storedAt = new Map<string, number>()

  /** Throws UsageError for invalid options, such as a cookie that no browser accepts. */
  constructor(options: SessionOptions) {
    checkOptions('Sessions', options, RULES)
    const { store, cookieName = 'sid', lifetime = 1440, path = '/', domain, sameSite = 'Lax', secrets = [] } = options
    if (store === undefined) throw bad('Sessions need a store: new MemorySessionStore(), say')
    if (/^__host-/i.test(cookieName) && (path !== '/' || domain !== undefined))
      throw bad(`Sessions: a cookie named ${cookieName} has no domain, and the path /`)
    const isAlwaysSecure = sameSite === 'None' || /^__(?:host|secure)-/i.test(cookieName)
    const keptFor = Math.ceil(lifetime * (1 + RENEW_AFTER))
    const own = { keptFor, domain: domain ?? null, isAlwaysSecure }
    this.#options = { store, cookieName, lifetime, path, sameSite, secrets, ...own }
  }

  /** Returns the session of a cookie; a new one if there is none, it has expired, or the id is not ours. */
  async load(cookies: Readonly<Record<string, string>>): Promise<StoredSession> {
    const id = this.#verified(cookies[this.#options.cookieName] ?? '')
    const data = id === null ? null : await this.#read(id)
    return id !== null && data !== null
      ? new StoredSession(id, data, false, newId)
      : new StoredSession(newId(), {}, true, newId)
  }

  /**
   * Stores what has changed, and renews what has not; neither if the session was removed in the meantime. Resolves with
   * the Set-Cookie value if the client must be sent one, otherwise null.
   */
  async commit(session: StoredSession, isEncrypted: boolean): Promise<string | null> {
    const { store, keptFor } = this.#options
    const id = session.getId()
    const { former, isChanged } = session
    if (session.isEmpty) {
      if (former !== null) await store.destroy(former)
      if (!session.isNew && isChanged) await store.destroy(id)
      return !session.isNew && isChanged ? this.#cookie('', 0, isEncrypted) : null
    }
    if (!isChanged && !this.#isDue(id)) return null
    if (!(await this.#store(session, isChanged))) return null // it was logged out meanwhile, or has another id by now
    this.#remember(id)
    return this.#cookie(this.#signed(id), keptFor, isEncrypted)
  }

  /** A session that was removed is never created again: false. */
  async #store(session: StoredSession, isChanged: boolean): Promise<boolean> {
    const { store, keptFor } = this.#options
    const id = session.getId()
    if (session.former !== null) return this.#rename(session, session.former)
    if (session.isNew) {
      await store.write(id, session.all(), keptFor)
      return true
    }
    if (isChanged && store.replace !== undefined) return store.replace(id, session.all(), keptFor)
    if (!isChanged && store.touch !== undefined) return store.touch(id, keptFor)
    const data = await this.#read(id)
    if (data !== null) await store.write(id, isChanged ? session.all() : data, keptFor)
    return data !== null
  }

  /**
   * Its new id is written before the former one is removed, so that an error loses neither. A logout knows the former
   * one only, and may come while we write.
   */
  async #rename(session: StoredSession, former: string): Promise<boolean> {
    const { store, keptFor } = this.#options
    const id = session.getId()
    if (!(await this.#exists(former))) return false
    await store.write(id, session.all(), keptFor)
    const isStillThere = await this.#exists(former)
    await store.destroy(isStillThere ? former : id)
    session.former = null
    return isStillThere
  }

  async #exists(id: string): Promise<boolean> {
    const { store, keptFor } = this.#options
    return store.touch === undefined ? (await this.#read(id)) !== null : store.touch(id, keptFor)
  }

  /**
   * A store in JavaScript has no types that would ask for null: many say undefined for an id that they do not know, and
   * that must not become a session.
   */
  async #read(id: string): Promise<SessionData | null> {
    const data: unknown = (await this.#options.store.read(id)) ?? null
    if (data === null || isObject(data)) return data as SessionData | null
    throw bad(`Sessions: read() of the store resolves with an object or null, not with ${nameOf(data)}`)
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
    const { cookieName, path, domain, sameSite, isAlwaysSecure } = this.#options
    const isSecure = isEncrypted || isAlwaysSecure
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

/** Says nothing of the data. */
function nameOf(data: unknown): string {
  return Array.isArray(data) ? 'a list' : `a ${typeof data}`
}

function bad(message: string): UsageError {
  return new UsageError('ERR_BAD_OPTION', message)
}

function newId(): string {
  return crypto().randomBytes(32).toString('base64url')
}
