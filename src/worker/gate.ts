// When a worker takes no more connections for a while: it has as many as it may, they come faster than they may, its
// siblings have fewer, or descriptors run out. What it does not take its siblings take, or it waits in the kernel's queue.

import type { Clock } from '../connection/host.ts'
import { ipv6Bytes } from '../net/address.ts'

export interface GateLimits {
  readonly maxConnections: number
  /** Per second; 0 is off. */
  readonly acceptRate: number
}

/** Room again from this share of `maxConnections` on: a listener costs a message to the master each time it comes back. */
const ROOM = 15 / 16
/** How long a worker rests that has more than its share: long enough for a sibling to be quicker. */
const SHARE_REST_MS = 10
/** So many it may take between two rests: a sibling that is slow must not slow us down for long. */
const SHARE_BATCH = 8
/** How often one looks whether descriptors have become free. */
const SCARCE_REST_MS = 250

export class Gate {
  readonly #limits: GateLimits
  readonly #clock: Clock
  /** A token for each connection that may come now, as of #filledAt. */
  #tokens: number
  #filledAt: number
  /** Beyond this many its siblings have fewer. */
  share = Number.POSITIVE_INFINITY

  constructor(limits: GateLimits, clock: Clock) {
    this.#limits = limits
    this.#clock = clock
    this.#tokens = burstOf(limits.acceptRate)
    this.#filledAt = clock.now()
  }

  /** A connection came, and there are so many now. How long to rest, in ms; Infinity: until there is room. */
  taken(connections: number): number {
    const { maxConnections, acceptRate } = this.#limits
    if (connections >= maxConnections) return Number.POSITIVE_INFINITY
    const paceMs = acceptRate > 0 ? this.#pay(acceptRate) : 0
    const isOver = connections > this.share && connections % SHARE_BATCH === 0
    return Math.max(paceMs, isOver ? SHARE_REST_MS : 0)
  }

  /**
   * With so many connections: how many may come at each of several sockets before `taken` says to rest. What is left of
   * `maxConnections` and is less than one for each is room at one of them.
   */
  room(connections: number, sockets = 1): number {
    const { acceptRate } = this.#limits
    const left = this.left(connections)
    const part = left < sockets ? left : Math.floor(left / sockets)
    const paced = acceptRate > 0 ? Math.max(1, Math.floor(this.#tokens / sockets)) : Number.POSITIVE_INFINITY // who owes rests for longer
    const batch = SHARE_BATCH - (connections % SHARE_BATCH)
    const shared = connections >= this.share ? batch : this.share - connections
    return Math.max(0, Math.min(part, paced, shared))
  }

  /** How many more there may be. */
  left(connections: number): number {
    return this.#limits.maxConnections - connections
  }

  hasRoom(connections: number): boolean {
    return connections <= Math.min(this.#limits.maxConnections - 1, this.#limits.maxConnections * ROOM)
  }

  /** How long to rest without descriptors. */
  get scarceMs(): number {
    return SCARCE_REST_MS
  }

  /** A token bucket: how long until the next one, or 0. */
  #pay(rate: number): number {
    const time = this.#clock.now()
    this.#tokens = Math.min(burstOf(rate), this.#tokens + ((time - this.#filledAt) * rate) / 1000) - 1
    this.#filledAt = time
    return this.#tokens >= 1 ? 0 : Math.ceil(((1 - this.#tokens) * 1000) / rate)
  }
}

/** A tenth of a second's worth may come at once. */
function burstOf(rate: number): number {
  return Math.max(1, rate / 10)
}

/** How many connections each address has. */
export class PerAddress {
  readonly #counts = new Map<string, number>()

  /** Those that are there already count, too. */
  constructor(present: readonly string[] = []) {
    for (const ip of present) if (ip !== '') this.take(ip, Number.POSITIVE_INFINITY)
  }

  /** False when it has that many already. */
  take(ip: string, most: number): boolean {
    const key = hostOf(ip)
    const count = this.#counts.get(key) ?? 0
    if (count >= most) return false
    this.#counts.set(key, count + 1)
    return true
  }

  release(ip: string): void {
    const key = hostOf(ip)
    const count = (this.#counts.get(key) ?? 1) - 1
    if (count <= 0) this.#counts.delete(key)
    else this.#counts.set(key, count)
  }

  /** Addresses that have any. */
  get size(): number {
    return this.#counts.size
  }
}

/** Of IPv6 the network of 64 bits, which is what one subscriber has; IPv4 in IPv6 is IPv4. */
export function hostOf(ip: string): string {
  if (!ip.includes(':')) return ip
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(ip)?.[1]
  return mapped ?? ipv6Bytes(ip).toString('hex', 0, 8)
}
