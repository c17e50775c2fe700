// The Workers that listen in one process: its own, and those that its program has told to listen beside it.

import type { Counters } from '../counters.ts'
import { SystemError, UsageError } from '../errors.ts'
import { log } from '../log.ts'
import { type Address, isAnyPort, isSamePlace, parseAddress } from '../net/address.ts'
import type { TlsSecrets, TlsServer } from '../net/tls.ts'
import type { GivenSocket, WantedSocket } from '../process/group.ts'
import type { AcceptingWorker, Acceptor } from './acceptor.ts'
import type { Departure } from './departure.ts'
import { Listening } from './listening.ts'
import { type Others, ProcessDeparture } from './process-departure.ts'

type RequestSocket = (wanted: WantedSocket) => Promise<GivenSocket>

/** A Worker, for the process that it listens in. */
export interface Listener {
  readonly worker: ListeningWorker
  readonly acceptor: Acceptor
  readonly departure: Departure
  /** Where it was made to listen; empty for nowhere. */
  readonly declared: string
  /** Where it listens. */
  address: string
  readonly place: Address
  /** Throws UsageError for settings with which it cannot listen at its address. */
  check(): void
  /** Returns null for a Worker without TLS. */
  secured(secrets: TlsSecrets): TlsServer | null
}

interface ListeningWorker extends AcceptingWorker {
  id: number
  incarnation: number
  counters: Counters
  tls: TlsServer | null
  readonly reusePort: boolean
}

/**
 * How many Workers that have closed a port 0 keep its number. Without a bound a program that makes a new Worker for
 * each brief port would have a new one bound each time, which the master keeps.
 */
const MOST_CLOSED = 16

export class Listeners {
  readonly #own: Listener
  /** Those that listen, or have connections from when they did. */
  readonly #others = new Set<Listener>()
  /** The `listen()` calls that a start waits for: a new call replaces one that failed. */
  readonly #calls = new Map<Listener, Promise<void>>()
  /** The address and number each of them listens at; at port 0 also where those did that have closed it. */
  readonly #places = new Map<Listener, WantedSocket>()
  /** With which TLS servers of the process begin. */
  ticketKeys = ''
  readonly departure: ProcessDeparture

  constructor(own: Listener, others: Others) {
    this.#own = own
    this.departure = new ProcessDeparture(() => this.all.map(({ departure }) => departure), others)
    own.departure.whole = this.departure
  }

  /** Its own first. */
  get all(): readonly Listener[] {
    return [this.#own, ...this.#others]
  }

  /** New ones, for those that there are, too. */
  useTickets(keys: string): void {
    this.ticketKeys = keys
    for (const { worker } of this.all) worker.tls?.useTickets(keys)
  }

  /** Resolves when all that was told to listen does. Rejects if one cannot, and nobody handles it. */
  async settled(): Promise<void> {
    await Promise.all(this.#calls.values())
  }

  /** For `Worker.listen`. Throws UsageError and SystemError. */
  listen(listener: Listener, address: string, requestSocket: RequestSocket): Promise<void> {
    const { acceptor } = listener
    if (address === '') throw new UsageError('ERR_BAD_ADDRESS', 'listen() needs an address')
    if (this.isDeclared(listener) && address === listener.address && acceptor.isPaused)
      return Promise.resolve(acceptor.resume()) // after `unlisten()`
    if (acceptor.wanted.address !== '' || acceptor.isListening || this.isDeclared(listener))
      throw new UsageError('ERR_LISTENS_ALREADY', 'this Worker has an address already: make another one for a second')
    if (this.#own.departure.hasBegun) throw leaving()
    const admitted = this.#admit(listener, address, requestSocket)
    // A handler may pass it on to where nothing handles it: then this turn ends the process, before it would be ready.
    const settled = admitted.catch(nextTurn)
    this.#calls.set(listener, admitted) // a start reports a failure once onWorkerStart has finished
    return Listening.of(admitted, () => {
      if (this.#calls.get(listener) === admitted) this.#calls.set(listener, settled)
    })
  }

  /** Whether the master owned its socket before this process started. */
  isDeclared(listener: Listener): boolean {
    return listener === this.#own && listener.declared !== ''
  }

  async #admit(listener: Listener, address: string, requestSocket: RequestSocket): Promise<void> {
    const { acceptor } = listener
    const { wanted: before } = acceptor
    const closed = this.#places.get(listener)
    const wanted = { address, nth: this.#nextAt(address, listener), turn: 0 }
    listener.address = address
    acceptor.wanted = wanted
    this.#places.set(listener, wanted)
    try {
      listener.check()
      if (listener.worker.reusePort) this.#tellShared(address)
      const given = await requestSocket(wanted)
      if (acceptor.wanted !== wanted) return given.handle?.close() // `unlisten` was called meanwhile
      await this.#admitAt(listener, given)
    } catch (error) {
      if (acceptor.wanted !== wanted) return
      listener.address = listener.declared
      acceptor.wanted = before
      this.#leave(listener, closed)
      throw error
    }
  }

  /** In the first process only: to the others the same applies. */
  #tellShared(address: string): void {
    if (this.#own.worker.id === 0)
      log(`${address}: reusePort has no effect in listen(): the processes share one socket`)
  }

  /** Closes what `listen` has opened. */
  unlisten(listener: Listener): void {
    this.#calls.delete(listener) // a start need not wait for it any more, even if it has failed
    if (listener.acceptor.wanted.address === '') return
    listener.acceptor.unlisten()
    this.#leave(listener, this.#places.get(listener))
  }

  /** Of a port 0 that it has closed, it keeps the number: `listen` opens that port again, as its clients know it. */
  #leave(listener: Listener, closed: WantedSocket | undefined): void {
    this.#places.delete(listener)
    if (closed !== undefined && isAnyPort(parseAddress(closed.address))) this.#keepNumber(listener, closed)
    this.look(listener)
  }

  #keepNumber(listener: Listener, closed: WantedSocket): void {
    this.#places.set(listener, closed)
    const all = [...this.#places.keys()].filter(({ acceptor }) => acceptor.wanted.address === '')
    for (const one of all.slice(0, -MOST_CLOSED)) this.#places.delete(one) // the first that closed
  }

  /**
   * Call when a listener has lost its last connection or handler. One that listens no longer is forgotten then: a
   * program may make one for each session of a client. While the process leaves it stays, since all are told to stop.
   */
  look(listener: Listener): void {
    if (listener.acceptor.wanted.address !== '' || !listener.departure.isEmpty) return
    if (!this.#own.departure.hasBegun) this.#others.delete(listener)
  }

  /**
   * Returns the number of a listener among those of this process at an address: 0 for the first, more only at port 0,
   * where it has the one that it had before. Throws SystemError if the address is taken.
   */
  #nextAt(address: string, listener: Listener): number {
    const place = parseAddress(address)
    const isHere = (other: WantedSocket) => isSamePlace(parseAddress(other.address), place)
    const closed = this.#places.get(listener)
    if (closed !== undefined && isHere(closed)) return closed.nth
    const others = [...this.#places.values()].filter(isHere)
    let nth = 0
    while (others.some((other) => other.nth === nth)) nth++
    const own = this.#own
    const isOwns = listener !== own && own.declared !== '' && isSamePlace(own.place, place)
    if (!isAnyPort(place) && (nth > 0 || isOwns)) throw new SystemError('EADDRINUSE', 'listen', address)
    return nth
  }

  async #admitAt(listener: Listener, { handle, endpoint }: GivenSocket): Promise<void> {
    if (this.#own.departure.hasBegun) {
      handle?.close()
      throw leaving()
    }
    const { worker, acceptor } = listener
    if (listener !== this.#own) {
      const { id, incarnation, counters } = this.#own.worker
      Object.assign(worker, { id, incarnation, counters })
      this.#others.add(listener)
      listener.departure.whole = this.departure
    }
    worker.tls ??= listener.secured({ ticketKeys: this.ticketKeys, files: {} })
    if (this.ticketKeys !== '') worker.tls?.useTickets(this.ticketKeys) // it was not told while it did not listen
    await acceptor.listen({ handle, expected: endpoint })
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

function leaving(): UsageError {
  return new UsageError('ERR_TOO_LATE', 'listen(): this process is leaving')
}
