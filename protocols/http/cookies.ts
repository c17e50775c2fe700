// Cookies (RFC 6265bis): those a client sends, and the lines that set them. Flags are safe by default, and signed
// values cannot be forged.

import { UsageError } from '../../src/errors.ts'
import { ANY_STRING, checkOptions, numberFrom, oneOf, type Rule, rule, TRUE_OR_FALSE } from '../../src/options.ts'
import { isEqual, sign } from '../../src/signing.ts'
import { isToken } from './fields.ts'

/** Has no prototype. */
export type Cookies = Readonly<Record<string, string>>

/** Browsers keep about 180 per site. */
const MAX_COOKIES = 200

/**
 * Parses a Cookie header. Of several with one name the first wins: it has the longest path (RFC 6265bis section 5.8.3).
 */
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

/** Attributes of a cookie (RFC 6265bis section 5.6). Wrong ones are ERR_BAD_COOKIE. */
export interface CookieOptions {
  /** Default `/`. */
  readonly path?: string
  /** Also sends the cookie to the subdomains of this domain. Default: none, only the host of the request. */
  readonly domain?: string
  /** Seconds; 0 deletes the cookie. Without it and `expires` the cookie ends with the browser session. */
  readonly maxAge?: number
  /** Default: none. */
  readonly expires?: Date
  /** Default false. Sent over TLS only. `__Secure-` and `__Host-` names need it. */
  readonly secure?: boolean
  /** Hides the cookie from scripts. Default true. */
  readonly httpOnly?: boolean
  /** Default `Lax`; `None` needs `secure`. */
  readonly sameSite?: 'Strict' | 'Lax' | 'None'
  /** Keeps a separate cookie for each site that embeds this one (CHIPS). Default false. */
  readonly partitioned?: boolean
}

const RULES = {
  path: ANY_STRING,
  domain: ANY_STRING,
  maxAge: numberFrom(-Number.MAX_VALUE, Number.MAX_VALUE),
  expires: rule((value) => value instanceof Date && !Number.isNaN(value.getTime()), 'a valid Date'),
  secure: TRUE_OR_FALSE,
  httpOnly: TRUE_OR_FALSE,
  sameSite: oneOf('Strict', 'Lax', 'None'),
  partitioned: TRUE_OR_FALSE,
} satisfies Record<keyof CookieOptions, Rule>

/**
 * The value of a Set-Cookie line; the cookie's value is percent-encoded. Throws UsageError for anything a browser would
 * reject.
 */
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
  checkOptions(`cookie ${name}`, options, RULES, 'ERR_BAD_COOKIE')
  if (/^__(?:secure|host)-/i.test(name) && !secure) throw bad(`a cookie named ${name} must be secure`)
  if (/^__host-/i.test(name) && (domain !== undefined || path !== '/'))
    throw bad(`a cookie named ${name} has no domain, and the path /`)
  if (sameSite === 'None' && !secure) throw bad(`SameSite=None takes secure (cookie ${name})`)
  if (partitioned === true && !secure) throw bad(`partitioned takes secure (cookie ${name})`)
  if (/\p{Surrogate}/u.test(value)) throw bad(`the value of cookie ${name} has half a character`)
  const parts = [`${name}=${encodeURIComponent(value)}`]
  if (domain !== undefined) parts.push(`Domain=${attribute('domain', domain)}`)
  if (maxAge !== undefined) parts.push(`Max-Age=${Math.trunc(maxAge)}`)
  if (expires !== undefined) parts.push(`Expires=${expires.toUTCString()}`)
  parts.push(`Path=${attribute('path', path)}`, `SameSite=${sameSite}`)
  if (secure) parts.push('Secure')
  if (httpOnly) parts.push('HttpOnly')
  if (partitioned === true) parts.push('Partitioned')
  return parts.join('; ')
}

/** Returns `value.mac`: clients can read the value but not change it. */
export function signCookie(value: string, secret: string): string {
  return `${value}.${sign(value, secret)}`
}

/** Returns the value if `signCookie` signed it with one of these secrets, else null. The newest secret comes first. */
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

function unquoted(value: string): string {
  return value.length >= 2 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1) : value
}

function decoded(value: string): string {
  if (!value.includes('%')) return value
  try {
    return decodeURIComponent(value)
  } catch {
    return value // URIError: not written by us
  }
}

function bad(message: string): UsageError {
  return new UsageError('ERR_BAD_COOKIE', message)
}
