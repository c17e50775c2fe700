// A listener of the native engine: how many connections it accepts per batch, how they become sockets, and what happens
// when descriptors run out.

import { closeSync } from 'node:fs'
import type { Sys } from '../addon-types.ts'
import { formatEndpoint } from '../endpoint.ts'
import { codeOf, SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { deadlines } from '../loop/deadlines.ts'
import type { Accept, Listener, ListenSource, SocketEvents } from '../transport.ts'
import { kernelBacklog } from './backlog.ts'
import { scarceFrom } from './descriptors.ts'
import type { Engine } from './native-engine.ts'
import { NativeSocket, type Owner, Pair } from './native-socket.ts'
import { KEEPALIVE_MS } from './node-engine.ts'
import { Kind } from './rings.ts'

/** Connections of one listener in one batch: siblings meanwhile get their share. */
const ACCEPTS = 16
/** How soon a listener without descriptors tries again: siblings meanwhile accept. */
const SCARCE_MS = 200

export class NativeListener implements Listener, Owner {
  readonly generation: number
  readonly #engine: Engine
  readonly slot: number
  readonly #source: ListenSource
  readonly #accept: Accept
  /** The local address of every connection, unless it listens on all addresses. */
  readonly #localIp: string
  #isClosed = false
  #looksAgain = false

  /** Throws SystemError. */
  constructor(engine: Engine, source: ListenSource, accept: Accept) {
    const { sys, native } = engine
    const fd = source.handle?.fd ?? source.fd ?? -1
    try {
      this.#localIp = listenOn(sys, fd, source)
      this.slot = listenWith(engine, fd, source)
    } catch (error) {
      giveUp(source)
      throw error
    }
    this.generation = native.generation(this.slot)
    this.#engine = engine
    this.#source = source
    this.#accept = accept
    engine.begin(this)
    this.makeRoom()
  }

  /**
   * Sets how many connections the next batch may accept, and wakes the listener if it had no room. Returns false if
   * there is no room.
   */
  makeRoom(): boolean {
    const { queued } = this.#engine.rings
    const hadNone = (queued[this.slot] as number) < 1
    const room = Math.min(this.#source.room?.() ?? ACCEPTS, ACCEPTS)
    if (this.#isClosed) return true // closed by that call
    queued[this.slot] = room
    if (room < 1) this.#lookAgain()
    else if (hadNone) this.#engine.native.wake(this.slot, this.generation)
    return room >= 1
  }

  hold(): void {
    if (this.#isClosed) return
    this.#engine.rings.queued[this.slot] = 0
    this.#lookAgain()
  }

  /** Room may appear outside our batches, for example when a timer closes a connection. */
  #lookAgain(): void {
    if (this.#looksAgain) return
    this.#looksAgain = true
    deadlines.after(SCARCE_MS, () => {
      this.#looksAgain = false
      if (!this.#isClosed) this.makeRoom()
    })
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#engine.end(this)
    if (hasHandle(this.#source)) giveUp(this.#source)
  }

  /** Handles the shortage of descriptors. */
  handle(kind: Kind, a: number): void {
    if (kind === Kind.Scarce) this.#rest(a)
  }

  /** `at`: of its AddressPair, in `receiveInts`. */
  accept(slot: number, generation: number, at: number): void {
    const { rings, owners } = this.#engine
    const socket = new NativeSocket(slot, generation, 0)
    const fd = rings.receiveInts[at + Pair.Fd] as number
    owners[slot] = socket
    socket.readEnds(rings, at, this.#localIp)
    this.#engine.isolate(socket, () => {
      let events: SocketEvents | null = null
      try {
        events = this.#accept(socket)
      } finally {
        if (events === null)
          socket.destroy() // refused, or never attached
        else socket.attach(events)
      }
    })
    if (fd >= scarceFrom()) this.#source.onScarce?.()
  }

  #rest(errno: number): void {
    acceptErrors.log(SystemError.fromErrno(-errno, 'accept', this.#source.expected).message)
    this.#source.onScarce?.()
    deadlines.after(SCARCE_MS, () => {
      if (!this.#isClosed) this.#engine.native.wake(this.slot, this.generation)
    })
  }
}

/**
 * Starts listening, after checking that the bound address is the expected one. Returns the local address of all
 * connections, or an empty string if they may differ.
 */
function listenOn(sys: Sys, fd: number, { backlog, expected }: ListenSource): string {
  const { family, address, port } = sys.socketName(fd)
  const isThere = family === 0 || formatEndpoint(address, port) === expected
  // Never serve at an address we were not asked for: see bound-socket.ts.
  if (!isThere) throw new SystemError('EADDRINUSE', 'listen', expected)
  try {
    sys.listen(fd, kernelBacklog(backlog))
  } catch (error) {
    throw new SystemError(codeOf(error), 'listen', expected, { cause: error })
  }
  if (family !== 0) {
    sys.setNoDelay(fd, true) // accepted sockets inherit these: no call per connection
    sys.setKeepAlive(fd, KEEPALIVE_MS / 1000)
  }
  return family === 0 || WILDCARDS.includes(address) ? '' : address
}

/** A handle owns and closes its descriptor, so the engine gets a copy. */
function listenWith({ sys, native }: Engine, fd: number, source: ListenSource): number {
  if (!hasHandle(source)) return native.listen(fd)
  const copy = sys.duplicate(fd)
  try {
    const slot = native.listen(copy.fd)
    copy.release()
    return slot
  } finally {
    copy.close()
  }
}

function hasHandle({ handle }: ListenSource): boolean {
  return handle !== null && handle !== undefined
}

/** Closes what the listener was given. */
function giveUp(source: ListenSource): void {
  if (source.handle) source.handle.close()
  else if (source.fd !== undefined) closeSync(source.fd)
}

/** On these addresses each connection has a local address of its own. */
const WILDCARDS = ['0.0.0.0', '::']

const acceptErrors = new LimitedLog()
