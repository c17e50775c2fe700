// What pipes make of a connection: where its messages go, whose messages come, and, for a proxy, whether an answer is
// still owed to its peer. Only connections that take part in a pipe have one of these.

import { apart } from '../loop/apart.ts'
import type { Role } from '../protocol.ts'
import { State } from './state.ts'
import { kHasWaiting, kHold, kIsFull, kIsOver, kRelease, kShut, kTaken } from './symbols.ts'

/** What a connection does for its pipes. */
interface Piped {
  /** Closed, and not about to connect again. */
  readonly [kIsOver]: boolean
  /** It takes no messages for a while. */
  readonly [kIsFull]: boolean
  /** How many bytes its peer has acknowledged. */
  readonly [kTaken]: number
  /** It has accepted what it cannot send yet. */
  readonly [kHasWaiting]: boolean
  getStatus(): number
  /** A destination is full: delivers nothing until `[kRelease]()`. */
  [kHold](): void
  [kRelease](): void
  /** The other side has reached the end of its input: FIN follows what is queued. */
  [kShut](): void
  close(): void
}

/** The pipes from one connection and into it, until it closes: a client's next life has its own. */
export class Pipes {
  readonly #connection: Piped
  readonly #role: Role
  #destination: Pipes | null = null
  readonly #sources = new Set<Pipes>()
  /** Its peer has sent something through the pipe, and nothing has come back since. */
  #isOwed = false
  #hasEnded = false
  /** The other end is over, and this client has yet to connect: it closes when it has sent what it was given. */
  #hasLostEnd = false
  /** What the destination's peer had acknowledged when `hasMoved` was called. */
  #takenBefore = 0

  constructor(connection: Piped, role: Role) {
    this.#connection = connection
    this.#role = role
  }

  /** Whether there is a pipe at all. */
  get isInUse(): boolean {
    return this.#destination !== null || this.#sources.size > 0
  }

  get hasDestination(): boolean {
    return this.#destination !== null
  }

  /** Leads to `destination` from now on, and nowhere else. When one of them is over, the other closes. */
  leadTo(destination: Pipes): void {
    this.#leave()
    this.#destination = destination
    destination.#sources.add(this)
    const [from, to] = [this.#connection, destination.#connection]
    if (to[kIsOver]) this.#loseEnd()
    else if (from[kIsOver]) destination.#loseEnd()
    else if (to[kIsFull]) from[kHold]()
    else from[kRelease]()
  }

  /** Whether the destination's peer has acknowledged at least `bytes` since the last call. */
  hasMoved(bytes: number): boolean {
    const taken = this.#destination === null ? 0 : this.#destination.#connection[kTaken]
    const hasMoved = taken - this.#takenBefore >= bytes
    this.#takenBefore = taken
    return hasMoved
  }

  /** A message of this end goes to the destination. */
  noteMessage(): void {
    this.#isOwed = true
    if (this.#destination !== null) this.#destination.#isOwed = false
  }

  /** The other end of a pipe was over before this client connected: there was nothing to close, or it had to wait. */
  get hasLostEnd(): boolean {
    return this.#hasLostEnd || this.#others.some((other) => other.#hasEnded || other.#connection[kIsOver])
  }

  /** This end is full, for a while. */
  holdSources(): void {
    for (const source of this.#sources) source.#connection[kHold]()
  }

  /** This end takes messages again. The first source may fill it. */
  releaseSources(): void {
    for (const source of this.#sources) if (!this.#connection[kIsFull]) source.#connection[kRelease]()
  }

  /**
   * As a proxy's accepted end: its peer has sent something to a client of ours and nothing has come back, or it has
   * sent its FIN and that client has not.
   */
  isOwed(hasPeerEnded: boolean): boolean {
    const partner = this.#partner
    return partner !== null && partner.#role === 'client' && (this.#isOwed || hasPeerEnded)
  }

  /**
   * For a pipe in both directions: sends the destination's peer the FIN that ours has sent. Returns false if there is
   * no other direction.
   */
  passEnd(): boolean {
    const partner = this.#partner
    if (partner === null) return false
    partner.#connection[kShut]()
    return true
  }

  /** The other end of a pipe in both directions. */
  get #partner(): Pipes | null {
    return this.#destination !== null && this.#sources.has(this.#destination) ? this.#destination : null
  }

  /**
   * This end has closed, so the others do too: a source would wait for a drain that never comes. Not one that has ended
   * before, which is how it came to this, nor one that has been piped to this connection's next life.
   */
  end(): void {
    const others = this.#others
    this.#hasEnded = true
    this.#leave()
    this.#sources.clear()
    for (const other of others) if (!other.#hasEnded && !other.#goesOnWith(this)) other.#loseEnd()
  }

  /** Closes. A client that has yet to connect does that when it has sent what it has accepted, as any connection. */
  #loseEnd(): void {
    const isConnected = this.#connection.getStatus() === State.Established
    if (isConnected || !this.#connection[kHasWaiting]) apart(close, this.#connection)
    else this.#hasLostEnd = true
  }

  #goesOnWith(ended: Pipes): boolean {
    return this.#others.some((end) => end !== ended && end.#connection === ended.#connection)
  }

  get #others(): readonly Pipes[] {
    return this.#destination === null ? [...this.#sources] : [this.#destination, ...this.#sources]
  }

  #leave(): void {
    if (this.#destination !== null) this.#destination.#sources.delete(this)
    this.#destination = null
  }
}

function close(connection: Piped): void {
  connection.close()
}
