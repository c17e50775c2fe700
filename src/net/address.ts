// Addresses as users write them: `tcp://0.0.0.0:8888`, `text://[::1]:0`, `unix:///run/app.sock`. Parsing only: a host
// name is looked up where the socket is bound, once, in the master.

import { isIPv6 } from 'node:net'
import { domainToASCII } from 'node:url'
import { UsageError } from '../errors.ts'

export interface Address {
  /** Lower case; names the protocol. */
  readonly scheme: string
  readonly transport: 'tcp' | 'udp' | 'unix'
  /** An IP address or a host name, without brackets; empty for unix. */
  readonly host: string
  readonly port: number
  /** Path of a Unix socket; empty for the others. */
  readonly path: string
}

/** Whether the scheme of an address implies TLS: `ssl`, `https`, `wss`. */
export function isSecureScheme(text: string): boolean {
  return /^(?:ssl|https|wss):/i.test(text)
}

/** The default port of a web address without one; 0 for other schemes, which must name theirs. */
export function usualPort(text: string, isSecure: boolean): number {
  if (isSecure) return 443
  return /^(?:ws|websocket|http):/i.test(text) ? 80 : 0
}

const SYNTAX = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/i
const HOST_PORT = /^(?:\[([0-9a-f:.]+(?:%[^\]]+)?)\]|([^\s:/[\]]+)):(\d{1,5})\/?$/i

/** sun_path of unix(7) has 108 bytes, one of them for the final NUL. Node 20 silently truncates a longer path. */
const MAX_UNIX_PATH = 107

/**
 * Parses an address. `transport` decides for schemes that work over both, such as `text`. Throws UsageError with the
 * reason and an example.
 */
export function parseAddress(text: string, transport: 'tcp' | 'udp' | '' = ''): Address {
  const [, scheme, rest] = SYNTAX.exec(text) ?? []
  if (scheme === undefined || rest === undefined) throw bad(text, 'it has no scheme')
  if (scheme.toLowerCase() !== 'unix') return parseHostPort(text, scheme.toLowerCase(), rest, transport)
  if (transport === 'udp') throw bad(text, 'a Unix socket takes no datagrams here')
  return parsePath(text, rest)
}

function parsePath(text: string, path: string): Address {
  if (path === '' || path.includes('\0')) throw bad(text, 'it has no path')
  checkUnixPath(path)
  return { scheme: 'unix', transport: 'unix', host: '', port: 0, path }
}

function parseHostPort(text: string, scheme: string, rest: string, wanted: 'tcp' | 'udp' | ''): Address {
  const [, v6, name, digits] = HOST_PORT.exec(rest) ?? []
  const host = v6 ?? name
  if (host === undefined || digits === undefined) throw bad(text, 'after :// comes host:port')
  if (v6 !== undefined && !isIPv6(v6)) throw bad(text, `${v6} is no IPv6 address`)
  const port = Number(digits)
  if (port > 65535) throw bad(text, `${port} is no port`)
  const transport = scheme === 'udp' || wanted === 'udp' ? 'udp' : 'tcp'
  return { scheme, transport, host, port, path: '' }
}

/** Whether two addresses name one place, whatever their schemes. */
export function isSamePlace(a: Address | undefined, b: Address): boolean {
  return a?.transport === b.transport && a.host === b.host && a.port === b.port && a.path === b.path
}

/** Whether the port is 0: any free port, a different one each time. */
export function isAnyPort({ transport, port }: Address): boolean {
  return transport !== 'unix' && port === 0
}

/** Parses the address of a small HTTP server in the master. Throws UsageError. */
export function parseHttpAddress(text: string): Address {
  const [, scheme = ''] = SYNTAX.exec(text) ?? []
  if (!/^(http|unix)$/i.test(scheme))
    throw new UsageError(
      'ERR_BAD_ADDRESS',
      `bad address '${text}': write http://127.0.0.1:9090 or unix:///run/app/health.sock`,
    )
  return parseAddress(text)
}

/** The address a client connects to. A name is in ASCII. */
export interface Target extends Address {
  readonly transport: 'tcp' | 'unix'
  /** Such as `/chat?room=1`; `/` when the address has none. */
  readonly uri: string
}

/** The address as in a Host header field: without the usual port; `localhost` for a Unix socket. */
export function authorityOf(
  { transport, host, port }: Pick<Target, 'transport' | 'host' | 'port'>,
  usualPort: number,
): string {
  if (transport === 'unix') return 'localhost'
  const name = hostNameOf(host)
  return port === usualPort ? name : `${name}:${port}`
}

/** A zone is the client's own name for an interface, and must not be sent (RFC 6874 section 4). */
function hostNameOf(host: string): string {
  return isIPv6(host) ? `[${host.replace(/%.*/, '')}]` : host
}

/** The name as it is sent: an internationalised one in ASCII (RFC 5891); empty if it has no such form. */
export function asciiName(name: string): string {
  if (/^[\x21-\x7e]*$/.test(name)) return name
  return /[/\\?#]/.test(name) ? '' : domainToASCII(name) // which would end the name there
}

const AFTER_HOST = /^([^/?#]*)([^#]*)/

/** Parses a client's address, which may have a path, and needs no port if `usual` is not 0. Throws UsageError. */
export function parseTarget(text: string, usual: number): Target {
  const [, scheme, rest = ''] = SYNTAX.exec(text) ?? []
  if (scheme === undefined) throw bad(text, 'it has no scheme')
  if (scheme.toLowerCase() === 'unix') return { ...parseAddress(text), transport: 'unix', uri: '/' }
  const [, authority = '', tail = ''] = AFTER_HOST.exec(rest) ?? []
  const hasPort = /:\d+$/.test(authority)
  if (!hasPort && usual === 0) throw bad(text, 'a client needs a port')
  const address = parseAddress(`${scheme}://${authority}${hasPort ? '' : `:${usual}`}`)
  if (address.port === 0) throw bad(text, 'a client needs a port')
  if (address.transport === 'udp') throw bad(text, 'there is AsyncUdpConnection for datagrams')
  const host = isIPv6(address.host) ? address.host : asciiName(address.host)
  if (host === '') throw bad(text, `${address.host} has no form in ASCII`)
  return { ...address, host, transport: 'tcp', uri: tail.startsWith('/') ? tail : `/${tail}` }
}

/** Returns the 16 bytes of an IPv6 address, without its zone. */
export function ipv6Bytes(address: string): Buffer {
  const text = new URL(`http://[${address.split('%')[0]}]`).hostname.slice(1, -1) // canonical: no dotted part
  const [head = '', tail] = text.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const groups = [...left, ...Array(8 - left.length - right.length).fill('0'), ...right]
  return Buffer.from(groups.map((group) => group.padStart(4, '0')).join(''), 'hex')
}

export function isUnixPath(path: string): boolean {
  return Buffer.byteLength(path) <= MAX_UNIX_PATH
}

/** Throws ERR_UNIX_PATH_TOO_LONG, since not every Node reports it. */
export function checkUnixPath(path: string): void {
  if (isUnixPath(path)) return
  const size = Buffer.byteLength(path)
  throw new UsageError(
    'ERR_UNIX_PATH_TOO_LONG',
    `the Unix socket path ${path} has ${size} bytes, the limit is ${MAX_UNIX_PATH}`,
  )
}

function bad(text: string, reason: string): UsageError {
  const example = 'write tcp://0.0.0.0:8888, text://[::1]:8888 or unix:///run/app.sock'
  return new UsageError('ERR_BAD_ADDRESS', `bad address '${text}': ${reason}; ${example}`)
}
