// Which protocols an address may name, and what a protocol must have.

import { quoted, UsageError } from '../errors.ts'
import type { AnyProtocol } from '../protocol.ts'

const registry = new Map<string, AnyProtocol>()

/**
 * Registers a protocol for `scheme://` addresses. Throws ERR_BAD_SCHEME for an invalid scheme, ERR_SCHEME_TAKEN when
 * another object holds it, ERR_BAD_PROTOCOL for an object that is not a protocol.
 */
export function registerProtocol(scheme: string, protocol: AnyProtocol): void {
  if (typeof scheme !== 'string' || !/^[a-z][a-z0-9+.-]*$/.test(scheme)) {
    const wanted = `use lower-case letters, digits, '+', '-' and '.'`
    throw new UsageError('ERR_BAD_SCHEME', `'${String(scheme)}' is no scheme: ${wanted}`)
  }
  checkProtocol(`the protocol of '${scheme}'`, protocol)
  const holder = registry.get(scheme)
  if (holder !== undefined && holder !== protocol) {
    throw new UsageError(
      'ERR_SCHEME_TAKEN',
      `the scheme '${scheme}' is registered already, by protocol '${holder.name}'`,
    )
  }
  registry.set(scheme, protocol)
}

const FRAMING = ['input', 'decode', 'encode']

/**
 * @internal Throws ERR_BAD_PROTOCOL, naming what is missing; otherwise the error would be blamed on each client that
 * connects.
 */
export function checkProtocol(what: string, protocol: unknown): asserts protocol is AnyProtocol {
  const isThing = (typeof protocol === 'object' && protocol !== null) || typeof protocol === 'function'
  if (!isThing) throw badProtocol(`${what} is ${quoted(protocol)}`)
  const methods = 'open' in protocol ? ['open'] : FRAMING
  const missing = methods.filter((name) => typeof Reflect.get(protocol, name) !== 'function').map((name) => `${name}()`)
  if (typeof Reflect.get(protocol, 'name') !== 'string') missing.unshift('name')
  if (missing.length > 0) throw badProtocol(`${what} has no ${missing.join(', ')}`)
}

/** @internal For what `open()` has returned, such as nothing, or the promise of an async function. */
export function badCodec(protocol: string, returned: unknown): UsageError {
  const why = `open() must return a codec, an object with receive() and the rest, not ${quoted(returned)}`
  return new UsageError('ERR_BAD_PROTOCOL', `protocol '${protocol}': ${why}`)
}

function badProtocol(why: string): UsageError {
  const wanted = 'framing has a name, input(), decode() and encode(), a codec a name and open()'
  return new UsageError('ERR_BAD_PROTOCOL', `${why}: ${wanted}`)
}

/** Returns the protocol of a scheme. Throws ERR_UNKNOWN_SCHEME, whose message lists the known ones. */
export function protocolOf(scheme: string): AnyProtocol {
  const protocol = registry.get(scheme)
  if (protocol !== undefined) return protocol
  const known = [...registry.keys()].sort().join(', ')
  throw new UsageError(
    'ERR_UNKNOWN_SCHEME',
    `unknown scheme '${scheme}' (known: ${known}); register yours with registerProtocol('${scheme}', protocol), or pass { protocol }`,
  )
}
