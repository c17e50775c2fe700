// The earlier master as the new one of an upgrade sees it, over the channel with which the old one spawned it. What is
// waited for arrives as a message, or is settled when the old master and its processes have gone.

import { setTimeout as sleep } from 'node:timers/promises'
import { withResolvers } from '../../deferred.ts'
import { UsageError } from '../../errors.ts'
import { now } from '../../loop/clock.ts'
import type { BoundSocket } from '../../net/bound-socket.ts'
import { nothing } from '../../nothing.ts'
import { version } from '../../version.ts'
import type { Channel } from '../channel.ts'
import { type CommandError, failedWith } from '../exit-codes.ts'
import type { PeerRow } from '../group.ts'
import { startTimeOf } from '../identity.ts'
import type { Outline } from '../master/group-state.ts'
import type { Sockets } from '../master/sockets.ts'
import type { FromChild, GroupKey, ToChild } from '../messages.ts'
import { matchGroups } from '../operations/group-match.ts'
import { INHERITANCE_FORMAT, type Inheritance, type InheritedGroup } from './inheritance.ts'
import { Legacy } from './legacy.ts'

const ALIVE_EVERY_MS = 1000
/** How long a killed process may take to end. */
const END_MS = 3000
const LOOK_EVERY_MS = 10

/** What a group takes over. */
export interface Estate {
  readonly group: InheritedGroup | null
  /** Sockets of its own address, in the order of the slots. */
  readonly sockets: readonly BoundSocket[]
  readonly inner: readonly (readonly [address: string, socket: BoundSocket])[]
  /** Index in the inheritance; -1 for a group that the old master does not have. */
  readonly place: number
}

const NOTHING: Estate = { group: null, sockets: [], inner: [], place: -1 }

export class EarlierMaster {
  /** Called when its processes, or it itself, have ended. Call `settle` when all of them have gone. */
  onLeft: (() => void) | null = null
  /** Called when the earlier master stays and this one is to end. */
  onAbandon: (() => void) | null = null
  /** Called when a name may have become free. */
  onFree: (() => void) | null = null
  /** Called when the addresses of its processes have changed. */
  onPeers: ((rows: readonly PeerRow[]) => void) | null = null
  /** Called when the service manager knows this one. */
  onNamed: (() => void) | null = null
  isGone = false
  /** What its processes have counted, as last reported. */
  readonly legacy = new Legacy()
  readonly #settling = withResolvers()
  readonly #end = withResolvers()
  /** Resolves when none of its processes is left; it may still have answers to pass on. */
  readonly settled = this.#settling.promise
  /** Resolves when the master itself has ended. */
  readonly gone = this.#end.promise
  readonly inheritance: Inheritance
  /** Read while it lives: a zombie has no start time. */
  readonly #startTime: string
  readonly #channel: Channel<ToChild, FromChild>
  readonly #alive: NodeJS.Timeout
  /** Index in the inheritance of each key that `adopt` was given. */
  readonly #places = new Map<GroupKey, number>()
  readonly #retired = new Map<string, () => void>()
  /** The names that its processes lead; null before it has said so. */
  #led: ReadonlySet<string> | null = null
  #isLed = false
  #isSettled = false
  #tellGiven: () => void = nothing // no one waits yet
  #tellLead: () => void = nothing // as above

  constructor(inheritance: Inheritance, channel: Channel<ToChild, FromChild>) {
    this.inheritance = inheritance
    this.#startTime = startTimeOf(inheritance.pid)
    this.#channel = channel
    channel.onMessage = (message) => this.#receive(message)
    channel.onClose = () => this.#gone()
    const tellAlive = () => channel.send({ type: 'alive', pid: process.pid })
    tellAlive()
    this.#alive = setInterval(tellAlive, ALIVE_EVERY_MS).unref()
  }

  /** Resolves when the process has really ended and holds nothing: its channel closes a moment earlier. */
  async ended(): Promise<void> {
    const { pid } = this.inheritance
    const late = now() + END_MS
    while (this.#startTime !== '' && startTimeOf(pid) === this.#startTime && now() < late) await sleep(LOOK_EVERY_MS)
  }

  get isSettled(): boolean {
    return this.#isSettled
  }

  /** What each of these groups takes over. Throws a UsageError if the old master's format is too new. */
  adopt(sockets: Sockets, keys: readonly GroupKey[]): Estate[] {
    const { format, groups, sockets: entries } = this.inheritance
    if (format > INHERITANCE_FORMAT)
      throw new UsageError('ERR_INHERITANCE', `millrace ${version} cannot take over from this one: use 'restart'`)
    const all = entries.map((entry) => sockets.inherit(entry))
    const { of } = matchGroups(
      groups.map(({ key }) => key),
      keys,
    )
    return of.map((place, at) => {
      this.#places.set(keys[at] as GroupKey, place)
      const group = groups[place]
      if (group === undefined) return NOTHING
      const inner = group.inner.map(([address, at]) => [address, all[at] as BoundSocket] as const)
      return { group, place, inner, sockets: group.sockets.map((at) => all[at] as BoundSocket) }
    })
  }

  /** Resolves when the earlier master has no process of these groups, which it has, left. */
  want(wanted: readonly Outline[]): Promise<void> {
    const groups = wanted.map(({ key }) => this.#places.get(key) ?? -1)
    const counts = wanted.map(({ declaration }) => declaration.count)
    this.#channel.send({ type: 'wants', groups, counts })
    return this.#unlessSettled((resolve) => {
      this.#tellGiven = resolve
    })
  }

  /** Resolves when this master is to lead. */
  able(): Promise<void> {
    this.#channel.send({ type: 'able' })
    return this.#unlessSettled((resolve) => {
      this.#tellLead = resolve
    })
  }

  /**
   * Whether none of its processes leads this name, or ever will. Not before it has given up choosing, and for a version
   * that does not say so, not before all of them have gone.
   */
  isFree(name: string): boolean {
    return this.#isSettled || this.#led?.has(name) === false
  }

  /** Sends the addresses of this master's processes, for those of the old one. */
  tellPeers(rows: readonly PeerRow[]): void {
    if (!this.isGone) this.#channel.send({ type: 'peers', rows })
  }

  leads(): void {
    this.#isLed = true
    this.#channel.send({ type: 'leads', version, node: process.versions.node })
  }

  /** Resolves when the old process of a slot has given up its singletons. */
  retired(group: number, slot: number): Promise<void> {
    const { slots = 0 } = this.inheritance.groups[group] ?? {}
    if (group < 0 || slot >= slots) return Promise.resolve() // it has none there
    return this.#unlessSettled((resolve) => {
      this.#retired.set(`${group}:${slot}`, resolve)
    })
  }

  /** Limits its processes to their time to stop, or to `timeoutMs`. */
  hurry(timeoutMs: number | null): void {
    if (this.#isLed) this.#channel.send({ type: 'hurry', timeoutMs })
  }

  /** Reports that this master failed and is about to end, so that the other need not wait for that. */
  fail(why: CommandError): void {
    this.#channel.send(failedWith(why))
  }

  /** All its processes have gone. */
  settle(): void {
    this.#isSettled = true
    this.#tellGiven()
    this.#tellLead()
    for (const tell of this.#retired.values()) tell()
    this.#settling.resolve()
  }

  #unlessSettled(begin: (resolve: () => void) => void): Promise<void> {
    return this.#isSettled ? Promise.resolve() : new Promise(begin)
  }

  #receive(message: ToChild): void {
    if (message.type === 'given') this.#tellGiven()
    else if (message.type === 'named') this.onNamed?.()
    else if (message.type === 'leavingPeers') this.onPeers?.(message.rows)
    else if (message.type === 'retired') this.#retired.get(`${message.group}:${message.slot}`)?.()
    else if (message.type === 'abandon') this.onAbandon?.()
    else if (message.type === 'led') {
      this.#led = new Set(message.names)
      this.onFree?.()
    } else if (message.type === 'left') {
      this.legacy.take(message)
      this.onLeft?.()
    } else if (message.type === 'takeCharge') {
      this.legacy.take(message)
      this.#tellLead()
    }
  }

  #gone(): void {
    this.isGone = true
    clearInterval(this.#alive)
    this.#end.resolve()
    this.onLeft?.()
  }
}
