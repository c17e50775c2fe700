// Connects to the first of several places that answers (RFC 8305, "happy eyeballs"): to the addresses of a name. One
// that takes its time stays in the race. Node's own way (`autoSelectFamily`) abandons an address after 250 ms, so that
// a name whose near address has no route and whose far one is slow could never be connected to.

import net from 'node:net'
import { deadlines } from '../loop/deadlines.ts'
import { nothing } from '../nothing.ts'

/** How long one is tried before the next is tried beside it: RFC 8305 section 8, Connection Attempt Delay. */
const NEXT_AFTER_MS = 250

/**
 * Looks up the addresses of a name. IPv6 and IPv4 alternate, since one of them may lead nowhere: RFC 8305 section 4.
 * Rejects with the error of `dns.lookup`.
 */
export async function addressesOf(host: string): Promise<readonly string[]> {
  if (net.isIP(host) !== 0) return [host]
  const dns = process.getBuiltinModule('node:dns')
  const options = { all: true, hints: dns.ADDRCONFIG } as const
  const found = await new Promise<readonly { address: string; family: number }[]>((resolve, reject) => {
    dns.lookup(host, options, (error, addresses) => (error === null ? resolve(addresses) : reject(error)))
  })
  const preferred = found.filter(({ family }) => family === found[0]?.family)
  const others = found.filter(({ family }) => family !== found[0]?.family)
  return found
    .flatMap((_, at) => [...preferred.slice(at, at + 1), ...others.slice(at, at + 1)])
    .map((one) => one.address)
}

/**
 * Resolves with the stream that is connected first; the others are given up. Rejects with the signal's reason, or when
 * all have failed: with the error, or an AggregateError in the order of failure.
 */
export function firstConnected(places: readonly net.NetConnectOpts[], signal: AbortSignal): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const race = new Race(places, (stream, error) => {
      signal.removeEventListener('abort', abort)
      if (stream === null) reject(error)
      else resolve(stream)
    })
    const abort = () => race.end(null, signal.reason)
    signal.addEventListener('abort', abort)
    race.next()
  })
}

class Race {
  readonly #places: readonly net.NetConnectOpts[]
  readonly #done: (winner: net.Socket | null, error: unknown) => void
  readonly #streams = new Set<net.Socket>()
  readonly #errors: Error[] = []
  #begun = 0
  #timer = 0

  constructor(places: readonly net.NetConnectOpts[], done: (winner: net.Socket | null, error: unknown) => void) {
    this.#places = places
    this.#done = done
  }

  next(): void {
    deadlines.cancel(this.#timer)
    const place = this.#places[this.#begun]
    if (place !== undefined) {
      this.#begun++
      this.#timer = deadlines.after(NEXT_AFTER_MS, Race.#goOn, this)
      this.#begin(place)
    } else if (this.#streams.size === 0) {
      this.end(null, this.#errors.length === 1 ? this.#errors[0] : new AggregateError(this.#errors))
    }
  }

  end(winner: net.Socket | null, error: unknown): void {
    deadlines.cancel(this.#timer)
    for (const stream of this.#streams) if (stream !== winner) stream.on('error', nothing).destroy()
    this.#streams.clear()
    this.#done(winner, error)
  }

  static #goOn(race: Race): void {
    race.next()
  }

  #begin(place: net.NetConnectOpts): void {
    const stream = net.connect(place)
    this.#streams.add(stream)
    const fail = (error: Error) => {
      if (!this.#streams.delete(stream)) return // given up
      this.#errors.push(error)
      this.next()
    }
    stream.on('error', fail)
    stream.once('connect', () => {
      stream.off('error', fail).on('error', nothing) // until another listener is attached; 'close' reports an error
      this.end(stream, null)
    })
  }
}
