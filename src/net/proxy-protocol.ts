// The PROXY protocol, versions 1 and 2: what a proxy sends about its client before it relays the client's bytes.
// Follows HAProxy's specification (proxy-protocol.txt, 2020). The parser is strict: a client that could make it guess
// could lie about its origin.

import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net'
import { formatEndpoint } from '../endpoint.ts'
import { ProtocolError, UsageError } from '../errors.ts'
import { NEED_MORE, type ProxyInfo } from '../protocol.ts'
import type { Ends } from '../transport.ts'
import { ipv6Bytes } from './address.ts'
import { ipv6Text } from './ip.ts'

export interface ProxyHeader {
  /** Length in bytes. */
  readonly length: number
  /** Null when the proxy speaks for itself (a health check), or does not know. */
  readonly ends: Ends | null
  readonly info: Omit<ProxyInfo, 'address'>
}

/** Section 2.1: including CRLF. */
const LONGEST_V1 = 107
const V1_START = Buffer.from('PROXY ')
const V2_SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const V2_HEAD = 16
/** Limit of what follows the head; addresses take at most 216 bytes, and a client certificate's name is short. */
const LONGEST_V2 = 4096

const NOTHING: ProxyHeader['info'] = { authority: '', alpn: '', uniqueId: null, tls: null, values: new Map() }

/** Parses the header at the start of `bytes`, or returns NEED_MORE. Throws ProtocolError. */
export function parseProxyHeader(bytes: Buffer): ProxyHeader | typeof NEED_MORE {
  if (bytes.length === 0) return NEED_MORE
  if (bytes[0] === V1_START[0]) return parseV1(bytes)
  if (bytes[0] === V2_SIGNATURE[0]) return parseV2(bytes)
  throw bad('there is none')
}

function startsAs(bytes: Buffer, start: Buffer): boolean {
  const length = Math.min(bytes.length, start.length)
  return bytes.compare(start, 0, length, 0, length) === 0
}

const LINE = /^PROXY (?:UNKNOWN(?: [^\r\n\0]*)?|(TCP4|TCP6) (\S+) (\S+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4}))$/

function parseV1(bytes: Buffer): ProxyHeader | typeof NEED_MORE {
  if (!startsAs(bytes, V1_START)) throw bad('there is none')
  const end = bytes.subarray(0, LONGEST_V1).indexOf('\r\n')
  if (end < 0 && bytes.length < LONGEST_V1) return NEED_MORE
  if (end < 0) throw bad(`its line is longer than ${LONGEST_V1} bytes`)
  const match = LINE.exec(bytes.toString('latin1', 0, end))
  if (match === null) throw bad('its line is malformed')
  const [, family, remoteIp = '', localIp = '', remotePort, localPort] = match
  const length = end + 2
  if (family === undefined) return { length, ends: null, info: NOTHING }
  const isRight = family === 'TCP4' ? isIPv4 : isIPv6WithoutZone
  if (!isRight(remoteIp) || !isRight(localIp)) throw bad(`an address is not of ${family}`)
  const spelled = (ip: string) => (family === 'TCP4' ? ip : ipv6Text(ipv6Bytes(ip))) // one client has one address
  const ends = {
    remoteIp: spelled(remoteIp),
    localIp: spelled(localIp),
    remotePort: Number(remotePort),
    localPort: Number(localPort),
  }
  if (ends.remotePort > 65_535 || ends.localPort > 65_535) throw bad('a port is over 65535')
  return { length, ends, info: NOTHING }
}

/** Section 2.1 has none: a zone is the proxy's name for an interface of its own. */
function isIPv6WithoutZone(ip: string): boolean {
  return isIPv6(ip) && !ip.includes('%')
}

const LOCAL = 0x20
const PROXY = 0x21
const UNSPECIFIED = 0x00
const TCP_OVER_IPV4 = 0x11
const TCP_OVER_IPV6 = 0x21
const UNIX_STREAM = 0x31
/** Bytes of both addresses and ports. */
const ADDRESS_BYTES: Readonly<Record<number, number>> = { [TCP_OVER_IPV4]: 12, [TCP_OVER_IPV6]: 36, [UNIX_STREAM]: 216 }

function parseV2(bytes: Buffer): ProxyHeader | typeof NEED_MORE {
  if (!startsAs(bytes, V2_SIGNATURE)) throw bad('there is none')
  if (bytes.length < V2_HEAD) return NEED_MORE
  const command = bytes.readUInt8(12)
  const family = bytes.readUInt8(13)
  const rest = bytes.readUInt16BE(14)
  if (command !== LOCAL && command !== PROXY) throw bad(`version and command are 0x${command.toString(16)}`)
  if (rest > LONGEST_V2) throw bad(`it declares ${rest} bytes, the limit is ${LONGEST_V2}`)
  const length = V2_HEAD + rest
  if (bytes.length < length) return NEED_MORE
  if (command === LOCAL) return { length, ends: null, info: NOTHING } // section 2.2: the rest is to be skipped
  if (family === UNSPECIFIED) return { length, ends: null, info: NOTHING }
  const addressBytes = ADDRESS_BYTES[family]
  if (addressBytes === undefined) throw bad(`its address family is 0x${family.toString(16)}`)
  if (rest < addressBytes) throw bad('its addresses are cut short')
  const header = bytes.subarray(0, length)
  const info = infoOf(header, V2_HEAD + addressBytes)
  return { length, ends: endsOf(header.subarray(V2_HEAD, V2_HEAD + addressBytes), family), info }
}

function endsOf(bytes: Buffer, family: number): Ends {
  if (family === UNIX_STREAM) return { remoteIp: '', remotePort: 0, localIp: '', localPort: 0 }
  const size = family === TCP_OVER_IPV4 ? 4 : 16
  const ipAt = (at: number) => {
    const ip = bytes.subarray(at, at + size)
    return size === 4 ? ip.join('.') : ipv6Text(ip)
  }
  return {
    remoteIp: ipAt(0),
    localIp: ipAt(size),
    remotePort: bytes.readUInt16BE(2 * size),
    localPort: bytes.readUInt16BE(2 * size + 2),
  }
}

// TLVs after the addresses: type, length, value

const ALPN = 0x01
const AUTHORITY = 0x02
const CRC32C = 0x03
const NOOP = 0x04
const UNIQUE_ID = 0x05
const SSL = 0x20
const SSL_VERSION = 0x21
const SSL_CN = 0x22
const SSL_CIPHER = 0x23
const CLIENT_SSL = 0x01

function infoOf(header: Buffer, from: number): ProxyHeader['info'] {
  if (from === header.length) return NOTHING
  const values = new Map<number, Buffer>()
  for (const [type, start, end] of valuesOf(header, from)) {
    if (type === CRC32C) checkCrc(header, start, end)
    else if (type !== NOOP) values.set(type, Buffer.from(header.subarray(start, end)))
  }
  const ssl = values.get(SSL)
  const textOf = (type: number) => values.get(type)?.toString('utf8') ?? ''
  const uniqueId = values.get(UNIQUE_ID) ?? null
  return {
    authority: textOf(AUTHORITY),
    alpn: textOf(ALPN),
    uniqueId,
    tls: ssl === undefined ? null : tlsOf(ssl),
    values,
  }
}

function* valuesOf(bytes: Buffer, from: number): Generator<readonly [type: number, start: number, end: number]> {
  let at = from
  while (at < bytes.length) {
    if (bytes.length - at < 3) throw bad('its values are cut short')
    const start = at + 3
    const end = start + bytes.readUInt16BE(at + 1)
    if (end > bytes.length) throw bad('its values are cut short')
    yield [bytes.readUInt8(at), start, end]
    at = end
  }
}

/** Section 2.2.5: client flags, 0 if its certificate was verified, and sub-TLVs. */
function tlsOf(ssl: Buffer): ProxyInfo['tls'] {
  if (ssl.length < 5) throw bad('what it says of TLS is cut short')
  if ((ssl.readUInt8(0) & CLIENT_SSL) === 0) return null
  const texts = new Map<number, string>()
  for (const [type, start, end] of valuesOf(ssl, 5)) texts.set(type, ssl.toString('utf8', start, end))
  return {
    version: texts.get(SSL_VERSION) ?? '',
    cipher: texts.get(SSL_CIPHER) ?? '',
    commonName: texts.get(SSL_CN) ?? '',
    hasCertificate: (ssl.readUInt8(0) & 0x06) !== 0,
    isVerified: (ssl.readUInt8(0) & 0x06) !== 0 && ssl.readUInt32BE(1) === 0,
  }
}

function checkCrc(header: Buffer, start: number, end: number): void {
  if (end - start !== 4) throw bad('its checksum has not 4 bytes')
  const zeroed = Buffer.from(header)
  zeroed.writeUInt32BE(0, start)
  if (crc32c(zeroed) !== header.readUInt32BE(start)) throw bad('its checksum is wrong')
}

let table: Uint32Array | null = null

/** Castagnoli's polynomial, RFC 4960 appendix B. */
function crc32c(bytes: Buffer): number {
  table ??= Uint32Array.from({ length: 256 }, (_, index) => {
    let value = index
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1
    return value
  })
  let crc = 0xffffffff
  for (const byte of bytes) crc = (crc >>> 8) ^ (table[(crc ^ byte) & 0xff] as number)
  return (crc ^ 0xffffffff) >>> 0
}

function bad(why: string): ProtocolError {
  return new ProtocolError('ERR_PROXY_HEADER', `bad PROXY header: ${why}`)
}

// Trusted peers

/** Peers that may name another host as the client: addresses, networks (`10.0.0.0/8`, `fd00::/8`), `unix`. */
export class TrustedPeers {
  readonly #networks = new BlockList()
  readonly #hasUnix: boolean

  readonly #setting: string

  /** Throws UsageError, which names the setting. */
  constructor(from: readonly string[], setting = 'proxyProtocol.from') {
    this.#setting = setting
    this.#hasUnix = from.includes('unix')
    for (const one of from) if (one !== 'unix') this.#add(one)
  }

  has(ip: string): boolean {
    if (ip === '') return this.#hasUnix
    return isIPv4(ip) ? this.#networks.check(ip) : this.#networks.check(ip.split('%')[0] as string, 'ipv6')
  }

  #add(text: string): void {
    const [, ip = '', digits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? []
    const family = isIP(ip)
    const bits = family === 4 ? 32 : 128
    const prefix = digits === undefined ? bits : Number(digits)
    if (family === 0 || prefix > bits) {
      const example = `write '10.0.0.0/8', '::1' or 'unix'`
      throw new UsageError('ERR_BAD_OPTION', `${this.#setting}: '${text}' is no address and no network; ${example}`)
    }
    this.#refuseZone(text, ip)
    this.#networks.addSubnet(ip, prefix, family === 4 ? 'ipv4' : 'ipv6')
  }

  /** BlockList ignores it: the setting would trust more than it says. */
  #refuseZone(text: string, ip: string): void {
    const [bare, zone] = ip.split('%')
    if (zone === undefined) return
    const why = `trusts whoever has ${bare} at any interface: write it without %${zone} if that is meant`
    throw new UsageError('ERR_BAD_OPTION', `${this.#setting}: '${text}' ${why}`)
  }
}

/** The name of a proxy in logs. */
export function nameOf(ip: string, port: number): string {
  return ip === '' ? 'a Unix socket' : formatEndpoint(ip, port)
}
