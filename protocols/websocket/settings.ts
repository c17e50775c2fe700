// The settings of a WebSocket, with their defaults and the reasons for them.

import { UsageError } from '../../src/errors.ts'
import {
  checkOptions,
  integerFrom,
  isFunction,
  isListOfStrings,
  isObject,
  isString,
  LIST_OF_STRINGS,
  NOT_NEGATIVE,
  POSITIVE,
  type Rule,
  rule,
} from '../../src/options.ts'
import { disown, isThenable } from '../../src/thenable.ts'
import { isToken } from '../http/fields.ts'
import { HEAD_LIMITS } from '../http/head.ts'
import type { Request } from '../http/request.ts'
import { checkField } from '../http/response.ts'
import type { Reading } from '../http/settings.ts'
import type { CompressionChoice, CompressionSettings, DeflateEngine } from './deflate.ts'
import { checkOwnFields } from './handshake.ts'

/**
 * What `websocket({ ... })` takes. Throws UsageError for names that it does not know (ERR_UNKNOWN_OPTION) and for wrong
 * values (ERR_BAD_OPTION).
 */
export interface WebSocketSettings {
  /** permessage-deflate, if the peer agrees. Default false: for small messages it costs more than it saves. */
  readonly compression?: boolean | CompressionSettings
  /** Sub-protocols: a server picks the first of these that the client offers; a client offers them all. */
  readonly protocols?: readonly string[] | ((offered: readonly string[], request: Request) => string | false)
  /** Whose pages may connect: origins such as `https://example.org`, or a function. Default: any origin. */
  readonly origins?: readonly string[] | ((origin: string | undefined, request: Request) => boolean)
  /**
   * Proxies whose `X-Forwarded-For`, `-Proto` and `-Host` are trusted in the handshake: addresses and networks, or
   * `unix`. Default none. On a port shared with HTTP those of `http({ ... })` are trusted, too.
   */
  readonly trustProxy?: readonly string[]
  /**
   * A peer is pinged before it has been silent for this long. Default 30,000; 0 means never. Proxies cut off
   * connections silent for 60 s.
   */
  readonly pingIntervalMs?: number
  /** Time allowed for the pong. Default 10,000. */
  readonly pongTimeoutMs?: number
  /** Time allowed for the peer's close frame, from when it has acknowledged ours. Default 5,000. */
  readonly closeTimeoutMs?: number
  /** Time allowed for the handshake. Default 10,000. */
  readonly handshakeTimeoutMs?: number
  /**
   * A client's own header fields: `Origin`, `Authorization`, `Cookie`; `Host` replaces the one taken from the address.
   */
  readonly headers?: Readonly<Record<string, string>>
}

const LIST_OR_FUNCTION = rule(
  (value) => isListOfStrings(value) || isFunction(value),
  'a list of strings, or a function',
)

const RULES = {
  compression: rule((value) => typeof value === 'boolean' || isObject(value), 'true, false or an object'),
  protocols: LIST_OR_FUNCTION,
  origins: LIST_OR_FUNCTION,
  trustProxy: LIST_OF_STRINGS,
  pingIntervalMs: NOT_NEGATIVE,
  pongTimeoutMs: POSITIVE,
  closeTimeoutMs: POSITIVE,
  handshakeTimeoutMs: POSITIVE,
  headers: rule((value) => isObject(value) && Object.values(value).every(isString), 'an object of strings'),
} satisfies Record<keyof WebSocketSettings, Rule>

const RULES_OF_COMPRESSION = {
  threshold: NOT_NEGATIVE,
  level: integerFrom(1, 9),
  windowBits: integerFrom(9, 15),
  maxContexts: integerFrom(0),
} satisfies Record<keyof CompressionSettings, Rule>

/** What only the package itself can provide. */
export interface WebSocketServices {
  /** Makes the compression engine, one for each `websocket({ ... })`. */
  deflate(settings: CompressionChoice): DeflateEngine
  /** The current value for the Date field of an answer; empty if there is no clock. */
  date(): string
  /** Whether an address belongs to one of these. Throws UsageError for an invalid entry. */
  trusts(proxies: readonly string[]): (ip: string) => boolean
}

/** Settings with their defaults. */
export interface Resolved extends Reading, Pick<WebSocketServices, 'date'> {
  /** Null without compression, like `engine`. */
  readonly compression: CompressionChoice | null
  readonly engine: DeflateEngine | null
  /** Clients only. */
  readonly protocols: readonly string[]
  choose(offered: readonly string[], request: Request): string
  isWelcome(origin: string | undefined, request: Request): boolean
  readonly pingIntervalMs: number
  readonly pongTimeoutMs: number
  readonly closeTimeoutMs: number
  readonly handshakeTimeoutMs: number
  readonly headers: Readonly<Record<string, string>>
}

/** Throws UsageError for header fields that cannot be sent, and for compression settings that zlib does not support. */
export function resolved(settings: WebSocketSettings, services: WebSocketServices): Resolved {
  checkOptions('websocket()', settings, RULES)
  const { protocols = [], origins, headers = {}, trustProxy = [] } = settings
  const compression = compressionOf(settings.compression ?? false)
  for (const [name, value] of Object.entries(headers)) checkField(name, [value])
  checkOwnFields(Object.keys(headers))
  if (typeof protocols !== 'function') checkProtocols(protocols)
  return {
    head: HEAD_LIMITS,
    log: null,
    sessions: null,
    date: services.date,
    isTrusted: trustProxy.length === 0 ? null : services.trusts(trustProxy),
    engine: compression === null ? null : services.deflate(compression),
    compression,
    protocols: typeof protocols === 'function' ? [] : protocols,
    choose(offered, request) {
      if (typeof protocols === 'function') return atOnce('protocols', protocols(offered, request)) || ''
      return protocols.find((name) => offered.includes(name)) ?? ''
    },
    isWelcome(origin, request) {
      if (origins === undefined) return true
      return typeof origins === 'function'
        ? Boolean(atOnce('origins', origins(origin, request)))
        : origins.includes(origin ?? '')
    },
    pingIntervalMs: settings.pingIntervalMs ?? 30_000,
    pongTimeoutMs: settings.pongTimeoutMs ?? 10_000,
    closeTimeoutMs: settings.closeTimeoutMs ?? 5000,
    handshakeTimeoutMs: settings.handshakeTimeoutMs ?? 10_000,
    headers,
  }
}

/** A promise would be true whatever it says: it is no answer, but the fault of who wrote the function. */
function atOnce<T>(option: string, answer: T): T {
  if (!isThenable(answer)) return answer
  disown(answer)
  const advice = `'${option}' answers at once, not by a promise: use onWebSocketConnect for that`
  throw new UsageError('ERR_BAD_OPTION', advice)
}

function compressionOf(given: boolean | CompressionSettings): CompressionChoice | null {
  if (given === false) return null
  const choice = given === true ? {} : given
  checkOptions('compression', choice, RULES_OF_COMPRESSION, 'ERR_BAD_COMPRESSION')
  const { threshold = null, level = 3, windowBits = 12, maxContexts = 1000 } = choice
  return { threshold, level, windowBits, maxContexts }
}

function checkProtocols(names: readonly string[]): void {
  for (const name of names) if (!isToken(name)) throw new UsageError('ERR_BAD_SUBPROTOCOL', `'${name}' is no token`)
  if (new Set(names).size < names.length) throw new UsageError('ERR_BAD_SUBPROTOCOL', `one comes twice: ${names}`)
}
