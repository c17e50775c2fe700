// When a worker stops accepting for a while: it is at its connection limit, connections arrive faster than allowed, its
// siblings have fewer, or descriptors run out. Meanwhile siblings accept, or connections wait in the kernel's queue.

import type { Clock } from '../connection/host.ts'
import { ipv6Bytes } from '../net/address.ts'

export interface GateLimits {
  readonly maxConnections: number
  /** Per second; 0 is off. */
  readonly acceptRate: number
}

/** Accepts again below this share of `maxConnections`: each return of a listener costs a message to the master. */
const ROOM = 15 / 16
/** How long a worker with more than its share rests: enough for a sibling to be quicker. */
const SHARE_REST_MS = 10
/** How many it may accept between two such rests: a slow sibling must not slow us down for long. */
const SHARE_BATCH = 8
/** How often to check whether descriptors have become free. */
const SCARCE_REST_MS = 250

export class Gate {
  readonly #limits: GateLimits
  readonly #clock: Clock
  /** Tokens at #filledAt, one per connection that may be accepted. */
  #tokens: number
  #filledAt: number
  /** With more connections than this, it has more than its siblings. */
  share = Number.POSITIVE_INFINITY

  constructor(limits: GateLimits, clock: Clock) {
    this.#limits = limits
    this.#clock = clock
    this.#tokens = burstOf(limits.acceptRate)
    this.#filledAt = clock.now()
  }

  /**
   * A connection was accepted; `connections` is the new total. Returns how long to stop accepting, in ms; Infinity:
   * until there is room.
   */
  taken(connections: number): number {
    const { maxConnections, acceptRate } = this.#limits
    if (connections >= maxConnections) return Number.POSITIVE_INFINITY
    const paceMs = isPaced(acceptRate) ? this.#pay(acceptRate) : 0
    const isOver = connections > this.share && connections % SHARE_BATCH === 0
    return Math.max(paceMs, isOver ? SHARE_REST_MS : 0)
  }

  /**
   * With this many connections, returns how many may be accepted at each of several sockets before `taken` asks for a
   * rest. If less than one each is left of `maxConnections`, all of it is offered at each socket.
   */
  room(connections: number, sockets = 1): number {
    const { acceptRate } = this.#limits
    const left = this.left(connections)
    const part = left < sockets ? left : Math.floor(left / sockets)
    // A worker in debt rests for longer.
    const paced = isPaced(acceptRate) ? Math.max(1, Math.floor(this.#tokens / sockets)) : Number.POSITIVE_INFINITY
    const batch = SHARE_BATCH - (connections % SHARE_BATCH)
    const shared = connections >= this.share ? batch : this.share - connections
    return Math.max(0, Math.min(part, paced, shared))
  }

  /** How many more connections there may be. */
  left(connections: number): number {
    return this.#limits.maxConnections - connections
  }

  hasRoom(connections: number): boolean {
    return connections <= Math.min(this.#limits.maxConnections - 1, this.#limits.maxConnections * ROOM)
  }

  /** How long to rest without descriptors, in ms. */
  get scarceMs(): number {
    return SCARCE_REST_MS
  }

  /** Token bucket: takes one token and returns how long until the next, in ms, or 0. */
  #pay(rate: number): number {
    const time = this.#clock.now()
    this.#tokens = Math.min(burstOf(rate), this.#tokens + ((time - this.#filledAt) * rate) / 1000) - 1
    this.#filledAt = time
    return this.#tokens >= 1 ? 0 : Math.ceil(((1 - this.#tokens) * 1000) / rate)
  }
}

/** Infinity means off, as 0 does: multiplied by no time it would be NaN. */
function isPaced(acceptRate: number): boolean {
  return acceptRate > 0 && acceptRate < Number.POSITIVE_INFINITY
}

/** A tenth of a second's worth may arrive at once. */
function burstOf(rate: number): number {
  return Math.max(1, rate / 10)
}

/** Counts connections per address. */
export class PerAddress {
  readonly #counts = new Map<string, number>()

  /** Connections already open count too. */
  constructor(present: readonly string[] = []) {
    for (const ip of present) if (ip !== '') this.take(ip, Number.POSITIVE_INFINITY)
  }

  /** Returns false when the address already has `most`. */
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

  /** Number of addresses with at least one connection. */
  get size(): number {
    return this.#counts.size
  }
}

/** For IPv6 the /64, which is what one subscriber has; an IPv4-mapped address counts as IPv4. */
export function hostOf(ip: string): string {
  if (!ip.includes(':')) return ip
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(ip)?.[1]
  return mapped ?? ipv6Bytes(ip).toString('hex', 0, 8)
}
