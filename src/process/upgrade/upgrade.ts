// An upgrade: another process, with another Node and another version of this package, becomes the master. It is a child
// of this one until it can lead: it has the sockets, its processes serve beside ours, and nothing of ours is removed
// before that. Any failure until then ends the upgrade, and this master goes on. Afterwards our processes drain, and
// this one ends. inheritance.ts has the protocol between the two.

import { closeSync } from 'node:fs'
import { addon } from '../../addon.ts'
import type { Counters } from '../../counters.ts'
import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import type { BoundSocket } from '../../net/bound-socket.ts'
import { inSeconds } from '../../times.ts'
import { version } from '../../version.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { ownIdentity, startTimeOf } from '../identity.ts'
import { daemonStdio } from '../launch.ts'
import type { GroupState } from '../master/group-state.ts'
import type { Household } from '../master/household.ts'
import type { Leaders } from '../master/leaders.ts'
import { extendWhile, monotonicUsec, tellService } from '../master/service.ts'
import type { Slot } from '../master/slot.ts'
import type { MasterBoot } from '../messages.ts'
import { nodeSettings } from '../node-flags.ts'
import { attempt, outcomeOf } from '../operations/attempt.ts'
import type { ReloadOutcome } from '../operations/receipts.ts'
import { type Supervisor, Turnover } from '../operations/turnover.ts'
import { writePidFile } from '../pid-file.ts'
import { FIRST_SOCKET_FD, type Program, spawnChild } from '../spawn.ts'
import type { Seen } from '../status/readiness.ts'
import { INHERITANCE_FORMAT, type Tally } from './inheritance.ts'
import { checkProgram, Successor } from './successor.ts'

/**
 * Outcome of an upgrade. Describes the new master if there is one, else the one that goes on; `slots` are the old
 * one's.
 */
export interface UpgradeOutcome extends ReloadOutcome {
  readonly pid: number
  readonly oldPid: number
  readonly version: string
  readonly oldVersion: string
  /** `24.1.0` */
  readonly node: string
  readonly oldNode: string
}

/** What an upgrade needs from its master in addition. */
export interface Replaceable extends Supervisor {
  readonly stopTimeoutMs: number
  readonly seen: Seen
  readonly leaders: Leaders
  /** What its processes have counted; connections are 0. */
  totals(): Promise<Counters>
  /** Another master leads now, irrevocably. */
  onReplaced(): void
  /** Called for a stop that gives no more than the time to stop. */
  hurry(timeoutMs: number | null): void
}

export class Upgrade {
  readonly #household: Household
  readonly #master: Replaceable
  readonly #signal: AbortSignal
  readonly #removal: Turnover
  /** In the order of the inheritance; kept after the processes have left. */
  #books: readonly { readonly group: GroupState; readonly slots: readonly Slot[] }[] = []
  #leader = { pid: process.pid, version, node: process.versions.node }

  /** @param signal gives up early, until the new master leads */
  constructor(household: Household, master: Replaceable, signal: AbortSignal) {
    this.#household = household
    this.#master = master
    this.#signal = signal
    this.#removal = new Turnover(master, 'upgrade')
  }

  /** Resolves when the old processes have gone, or when everything is as before. Never rejects. */
  async run(program: Program): Promise<UpgradeOutcome> {
    const attempted = await attempt(this.#master.events, 'upgrade', [], async () => {
      if (this.#signal.aborted) throw new CommandError(Exit.Failure, 'the server is being stopped')
      refuseUnfit(this.#household)
      await this.#replace(program)
    })
    const { failure, durationMs } = attempted
    const { pid, version: itsVersion, node } = this.#leader
    log(failure === null ? `upgrade: done in ${inSeconds(durationMs)}` : `upgrade: given up: ${failure.message}`)
    const slots = this.#removal.receipts.filter(({ oldPid }) => oldPid !== 0)
    return {
      ...outcomeOf(attempted, slots, []),
      pid,
      oldPid: process.pid,
      version: itsVersion,
      oldVersion: version,
      node,
      oldNode: process.versions.node,
    }
  }

  async #replace(program: Program): Promise<void> {
    log(`upgrade: checking ${program.startFile} on ${program.node}`)
    const wanted = await checkProgram(program, this.#signal)
    tellService('RELOADING=1', monotonicUsec())
    log(`upgrade: starting the master of millrace ${wanted}`)
    const stopExtending = extendWhile(() => true)
    this.#household.whole.leftovers.isShared = true
    let successor: Successor | null = null
    try {
      successor = this.#spawn(program)
      const { groups, counts } = await successor.expect('wants', this.#signal)
      await Promise.all(groups.map((place, at) => this.#vacate(place, counts?.[at])))
      successor.send({ type: 'given' })
      await successor.expect('able', this.#signal)
      this.#giveWay(successor.pid)
      successor.send({ type: 'takeCharge', ...(await this.#tally()) })
      const { version: itsVersion, node } = await successor.expect('leads', this.#signal)
      await successor.release()
      // Not earlier: if the successor ended before it led, systemd would take that for the server's end.
      tellService('READY=1', `MAINPID=${successor.pid}`)
      successor.send({ type: 'named' })
      this.#leader = { pid: successor.pid, version: itsVersion, node }
    } catch (error) {
      await this.#goOn(successor)
      throw error
    } finally {
      stopExtending()
    }
    await this.#leave(successor)
  }

  #spawn(program: Program): Successor {
    const { options, isDaemon, runDir } = this.#household
    const { boot, fds } = this.#inheritance()
    const stdio = isDaemon ? daemonStdio(options, runDir) : (['inherit', 'inherit', 'inherit'] as const)
    const [, , err] = stdio
    // If a main process was not a child of systemd's when it was named, systemd regards it as gone at a stop and kills
    // everything at once.
    const isForkedTwice = isManaged()
    try {
      const isDetached = isDaemon || isForkedTwice
      return new Successor(
        spawnChild(boot, { stdio: [...stdio], fds, isDetached, program: () => program, isForkedTwice }),
        isForkedTwice,
      )
    } finally {
      if (typeof err === 'number') closeSync(err)
    }
  }

  #inheritance(): { boot: MasterBoot; fds: number[] } {
    const { options, isDaemon, runDir, tickets, peers, memory } = this.#household
    const { keeper } = this.#household.whole
    const { groups, sockets, seen } = this.#master
    this.#books = groups.map((group) => ({ group, slots: [...group.slots] }))
    const list = sockets.list()
    const places = new Map(list.map(([socket], place) => [socket, place]))
    const fds = list.flatMap(([{ fd }]) => (fd < 0 ? [] : [fd]))
    const entries = list.map(([{ fd }, entry]) => ({ ...entry, fd: fd < 0 ? -1 : FIRST_SOCKET_FD + fds.indexOf(fd) }))
    const isListed = (socket: BoundSocket) => places.has(socket)
    const placeOf = (socket: BoundSocket) => places.get(socket) as number
    const inheritance = {
      format: INHERITANCE_FORMAT,
      pid: process.pid,
      runDir,
      sockets: entries,
      groups: groups.map(({ blueprint, inner, declaredCount, scaledTo, isStopped, slots }) => ({
        key: blueprint.key,
        ...{ declaredCount, scaledTo, isStopped, slots: slots.length },
        sockets: blueprint.sockets.filter(isListed).map(placeOf),
        inner: [...inner]
          .filter(([, socket]) => isListed(socket))
          .map(([address, socket]) => [address, placeOf(socket)] as const),
      })),
      ticketSecret: tickets.secret,
      meshSecret: peers.secret,
      keeper: keeper.inheritance,
      memory: memory === null ? -1 : FIRST_SOCKET_FD + fds.push(memory.fd) - 1,
      reloads: seen.reloads.toJSON(),
    }
    return { boot: { role: 'master', options, isDaemon, node: nodeSettings(), inheritance }, fds }
  }

  /**
   * Makes our processes of a group leave, for those of the new master that cannot live beside them. Of the sockets, the
   * first `count` are kept: what comes meanwhile waits there.
   */
  async #vacate(place: number, count?: number): Promise<void> {
    const group = this.#master.groups[place]
    if (group === undefined) return
    const { sockets } = group.blueprint
    const surplus = count === undefined ? [] : group.slots.slice(count)
    await Promise.all(surplus.map((slot) => group.share.giveUp(slot, sockets.slice(0, count))))
    await this.#removal.vacate(group)
  }

  /** Everything that names the master now names the new one. */
  #giveWay(pid: number): void {
    const { health } = this.#household
    const { lock, control } = this.#household.whole
    this.#master.sockets.lend()
    health.suspend()
    lock.passTo({ pid, startTime: startTimeOf(pid) })
    control.giveWay(pid)
  }

  /** The new master failed: everything is restored. */
  async #goOn(successor: Successor | null): Promise<void> {
    const { health, pidFiles } = this.#household
    const { lock, control, leftovers } = this.#household.whole
    const { sockets, groups, stopTimeoutMs } = this.#master
    const steps = [
      () => lock.passTo(ownIdentity()),
      () => control.take(successor?.pid),
      ...[...pidFiles].map((path) => () => writePidFile(path, process.pid)),
      () => this.#household.recordLog(),
    ]
    sockets.own()
    for (const step of steps) tryTo(step)
    if (!this.#signal.aborted) tellService('READY=1', `MAINPID=${process.pid}`) // else it has received STOPPING=1
    for (const group of groups) {
      group.share.forget()
      for (const slot of group.slots) {
        slot.isHeld = false
        slot.isGivenUp = false
      }
    }
    this.#master.reconcile()
    await successor?.abandon(stopTimeoutMs)
    await health.resume().catch((error) => log(messageOf(error)))
    tryTo(() => control.take(successor?.pid))
    leftovers.inherit()
    await leftovers.leave(stopTimeoutMs, new AbortController().signal).catch((error) => log(messageOf(error)))
    this.#master.reconcile()
  }

  async #leave(successor: Successor): Promise<void> {
    log(`upgrade: pid ${successor.pid} is the master now`)
    successor.onHurry = (timeoutMs) => this.#master.hurry(timeoutMs)
    this.#master.onReplaced()
    this.#tellLed(successor)
    successor.onPeers = () => this.#follow(successor)
    this.#follow(successor)
    const { peers } = this.#household
    peers.onChange = (rows) => successor.send({ type: 'leavingPeers', rows })
    successor.send({ type: 'leavingPeers', rows: peers.own })
    for (const [group, { slots }] of this.#master.groups.entries()) {
      for (const { id, processes } of slots)
        void Promise.all(processes.map(({ retired }) => retired)).then(() =>
          successor.send({ type: 'retired', group, slot: id }),
        )
    }
    await this.#removal.removeAll()
    successor.send({ type: 'left', ...(await this.#tally()) })
  }

  /** From now on this master chooses no leader: a name whose leader ends is the new master's. */
  #tellLed(successor: Successor): void {
    const { leaders } = this.#master
    const tell = () => successor.send({ type: 'led', names: leaders.list().map(({ name }) => name) })
    leaders.onFree = tell
    tell()
  }

  /** The counters that the new master continues from. */
  async #tally(): Promise<Tally> {
    const totals = await this.#master.totals()
    const groups = this.#books.map(({ group: { exits, recycled }, slots }) => ({
      slots: slots.map(({ counters }) => ({ ...counters, connections: 0 })),
      exits: Object.fromEntries(exits),
      replaced: Object.fromEntries(recycled),
    }))
    return { totals, groups }
  }

  /** From now on our processes send to those of the new master. */
  #follow(successor: Successor): void {
    this.#household.peers.successors = successor.peers
    this.#master.reconcile()
  }
}

/**
 * Refuses if a shell, a container or a service manager waits for this very process, and would take its end for the
 * server's.
 */
function refuseUnfit({ isDaemon }: Household): void {
  if (isDaemon || (isManaged() && process.pid !== 1)) return
  const who = process.pid === 1 ? 'the first process of a container' : 'a server in the foreground'
  throw new CommandError(
    Exit.Failure,
    `${who} keeps its pid, so its master cannot be replaced: use 'restart', start it with -d, or as a service with Type=notify`,
  )
}

/** Whether a service manager runs us that can be notified of another pid. */
function isManaged(): boolean {
  const { NOTIFY_SOCKET = '' } = process.env
  return NOTIFY_SOCKET !== '' && addon().sys !== null
}

function tryTo(step: () => void): void {
  try {
    step()
  } catch (error) {
    log(`upgrade: ${messageOf(error)}`) // a full disk; the rest names the wrong pid, but commands still find us
  }
}
