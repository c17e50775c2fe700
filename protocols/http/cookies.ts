// Cookies (RFC 6265bis): what a client sends, and the lines that set them, with flags that are safe unless one says
// otherwise, and values that cannot be forged where there is a secret.

import { UsageError } from '../../src/errors.ts'
import { isEqual, sign } from '../../src/signing.ts'
import { isToken } from './fields.ts'

/** Without a prototype. */
export type Cookies = Readonly<Record<string, string>>

/** Browsers keep 180 or so of a site. */
const MAX_COOKIES = 200

/** Of a Cookie header. The first of a name wins: the one with the longest path (RFC 6265bis section 5.8.3). */
export function parseCookies(header: string): Cookies {
  const cookies: Record<string, string> = Object.create(null)
  for (const pair of header.split(';', MAX_COOKIES)) {
    const equals = pair.indexOf('=')
    const name = equals < 0 ? '' : pair.slice(0, equals).trim()
    if (name === '' || name in cookies) continue
    cookies[name] = decoded(unquoted(pair.slice(equals + 1).trim()))
  }
  return cookies
}

export interface CookieOptions {
  /** Default `/`. */
  readonly path?: string
  readonly domain?: string
  /** Seconds; 0 deletes. Without it and `expires` the cookie ends with the browser. */
  readonly maxAge?: number
  readonly expires?: Date
  /** Over TLS only. `__Secure-` and `__Host-` names need it. */
  readonly secure?: boolean
  /** Out of reach for scripts. Default true. */
  readonly httpOnly?: boolean
  /** Default `Lax`; `None` needs `secure`. */
  readonly sameSite?: 'Strict' | 'Lax' | 'None'
  readonly partitioned?: boolean
}

/** The value of a Set-Cookie line. The cookie's value is percent-encoded. Throws UsageError for what no browser would take. */
export function serializeCookie(name: string, value: string, options: CookieOptions = {}): string {
  const {
    path = '/',
    domain,
    maxAge,
    expires,
    secure = false,
    httpOnly = true,
    sameSite = 'Lax',
    partitioned,
  } = options
  if (!isToken(name)) throw bad(`'${name}' is no cookie name`)
  if (/^__(?:secure|host)-/i.test(name) && !secure) throw bad(`a cookie named ${name} must be secure`)
  if (/^__host-/i.test(name) && (domain !== undefined || path !== '/'))
    throw bad(`a cookie named ${name} has no domain, and the path /`)
  if (sameSite === 'None' && !secure) throw bad(`SameSite=None takes secure (cookie ${name})`)
  const parts = [`${name}=${encodeURIComponent(value)}`]
  if (domain !== undefined) parts.push(`Domain=${attribute('domain', domain)}`)
  if (maxAge !== undefined) parts.push(`Max-Age=${wholeSeconds(maxAge)}`)
  if (expires !== undefined) parts.push(`Expires=${expires.toUTCString()}`)
  parts.push(`Path=${attribute('path', path)}`, `SameSite=${sameSite}`)
  if (secure) parts.push('Secure')
  if (httpOnly) parts.push('HttpOnly')
  if (partitioned === true) parts.push('Partitioned')
  return parts.join('; ')
}

/** `value.mac`: a value that a client can read and cannot change. */
export function signCookie(value: string, secret: string): string {
  return `${value}.${sign(value, secret)}`
}

/** The value of what `signCookie` made with one of these secrets, else null. The first is the newest. */
export function verifyCookie(signed: string, secrets: readonly string[]): string | null {
  const dot = signed.lastIndexOf('.')
  if (dot < 0) return null
  const value = signed.slice(0, dot)
  const given = signed.slice(dot + 1)
  return secrets.some((secret) => isEqual(given, sign(value, secret))) ? value : null
}

function attribute(name: string, value: string): string {
  if (/^[\x20-\x3a\x3c-\x7e]*$/.test(value)) return value
  throw bad(`the ${name} of a cookie has no ';' and no control characters`)
}

function wholeSeconds(seconds: number): number {
  if (Number.isFinite(seconds)) return Math.trunc(seconds)
  throw bad(`maxAge is a number of seconds, not ${seconds}`)
}

function unquoted(value: string): string {
  return value.length >= 2 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1) : value
}

function decoded(value: string): string {
  if (!value.includes('%')) return value
  try {
    return decodeURIComponent(value)
  } catch {
    return value // URIError: not one of ours
  }
}

function bad(message: string): UsageError {
  return new UsageError('ERR_BAD_COOKIE', message)
}
