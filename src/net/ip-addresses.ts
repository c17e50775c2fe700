// IP addresses in the kernel's form and as text, each converted once: a server answers the same peers again and again,
// and should not pay for a conversion per datagram. Of one with a zone only the address is kept: see zones.ts.

import { isIP } from 'node:net'
import { ipv6Bytes } from './address.ts'
import { ipv4Text, ipv6Text } from './ip.ts'
import { scopeOf, zoneOf } from './zones.ts'

export interface IpAddress {
  /** `127.0.0.1`, `::1`, `fe80::1%eth0`. */
  readonly text: string
  readonly family: 4 | 6
  /** Interface number, for an address that is meaningless without one; otherwise 0. */
  readonly scope: number
  /** Its bytes in network order, four at a time in the machine's integer order; IPv4 uses the first word only. */
  readonly words: Int32Array
}

/** Cache limit, at which the cache is emptied: a flood of forged senders costs time, not memory. */
const MOST = 4096

const byText = new Map<string, IpAddress>()
const byWord = new Map<number, IpAddress>()
const byWords = new Map<string, IpAddress>()

/** Null if `text` is not an IP address, or has the zone of no interface. */
export function ipAddress(text: string): IpAddress | null {
  return byText.get(text) ?? parse(text)
}

/** From its word, in the machine's order. */
export function ipv4Address(word: number): IpAddress {
  const found = byWord.get(word)
  if (found !== undefined) return found
  const words = Int32Array.of(word, 0, 0, 0)
  return remember(byWord, word, made(words, 4))
}

/** From the four words at `at`. */
export function ipv6Address(ints: Int32Array, at: number, scope: number): IpAddress {
  const key = `${ints[at]} ${ints[at + 1]} ${ints[at + 2]} ${ints[at + 3]}`
  const bare = byWords.get(key) ?? remember(byWords, key, made(ints.slice(at, at + 4), 6))
  return scope === 0 ? bare : { ...bare, text: `${bare.text}%${zoneOf(scope)}`, scope }
}

function made(words: Int32Array, family: 4 | 6): IpAddress {
  const bytes = Buffer.from(words.buffer, 0, family === 4 ? 4 : 16)
  const text = family === 4 ? ipv4Text(bytes.readInt32BE(0)) : ipv6Text(bytes)
  const address: IpAddress = { text, family, scope: 0, words }
  remember(byText, text, address)
  return address
}

function parse(text: string): IpAddress | null {
  const end = text.indexOf('%')
  if (end >= 0) return inZone(text.slice(0, end), text.slice(end + 1))
  const family = isIP(text)
  if (family === 0) return null
  const words = new Int32Array(4)
  const bytes = Buffer.from(words.buffer)
  if (family === 4) bytes.set(text.split('.').map(Number))
  else bytes.set(ipv6Bytes(text))
  return remember(byText, text, { text, family: family === 4 ? 4 : 6, scope: 0, words })
}

function inZone(ip: string, zone: string): IpAddress | null {
  const bare = ipAddress(ip)
  const scope = scopeOf(zone)
  return bare?.family === 6 && scope !== 0 ? { ...bare, text: `${ip}%${zone}`, scope } : null
}

function remember<K>(map: Map<K, IpAddress>, key: K, address: IpAddress): IpAddress {
  if (map.size >= MOST) map.clear()
  map.set(key, address)
  return address
}
