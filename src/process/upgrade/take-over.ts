// How the new master of an upgrade takes over: first its processes serve beside the earlier one's, then it takes lock,
// control socket and probes, then it leads. It also does so if the earlier one is killed on the way. upgrade.ts is the
// other side.

import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { asCommandError, type CommandError } from '../exit-codes.ts'
import type { PeerRow, Settings } from '../group.ts'
import { CALL_TIMEOUT_MS } from '../master/callbacks.ts'
import type { GroupState } from '../master/group-state.ts'
import type { Household } from '../master/household.ts'
import { speakLater, speakUp } from '../master/service.ts'
import type { Sockets } from '../master/sockets.ts'
import { tidy } from '../master/tidy.ts'
import type { EarlierMaster, Estate } from './earlier-master.ts'
import type { Reign } from './reign.ts'

/** What a take-over needs from the new master. */
export interface Heir {
  readonly groups: GroupState[]
  readonly sockets: Sockets
  readonly settings: Settings
  readonly healthAddress: string
  readonly isAllReady: boolean
  readonly reign: Reign
  /** It is ending, for whatever reason. */
  readonly isEnding: boolean
  until(isTrue: () => boolean): Promise<void>
  reconcile(): void
  stop(isGraceful: boolean): void
  giveUp(why: CommandError): void
  /** Called when it leads. */
  onLead(): void
}

export class TakeOver {
  readonly #master: Heir
  readonly #household: Household
  readonly #earlier: EarlierMaster

  constructor(master: Heir, household: Household, earlier: EarlierMaster) {
    this.#master = master
    this.#household = household
    this.#earlier = earlier
  }

  /** From here on this master notices when the earlier one gives up or is killed. */
  async join(): Promise<void> {
    const earlier = this.#earlier
    speakLater()
    earlier.onNamed = speakUp
    earlier.onFree = () => this.#master.reconcile()
    await this.#household.join(earlier)
    earlier.onAbandon = () => {
      if (this.#master.reign.isOpen) this.#master.reign.move('abandoned')
      this.#master.stop(false)
    }
    earlier.onPeers = (rows) => this.#follow(rows)
    earlier.onLeft = () => void this.#outlive()
    if (earlier.isGone) void this.#outlive()
    await this.#household.keeper?.hold() // the earlier one may be killed at any time
  }

  /**
   * Gives a group its inheritance. Slots of a group that cannot live beside the earlier master's processes stay held.
   */
  inherit(group: GroupState, { inner, place }: Estate): void {
    const { declaration, sockets } = group.blueprint
    const isAlone = declaration.reloadMode === 'stop-first' || sockets.some(({ isExclusive }) => isExclusive === true)
    if (place >= 0) this.#earlier.legacy.addHeir(place, group)
    for (const [address, socket] of inner) group.inheritInner(address, socket)
    for (const slot of group.slots) {
      slot.isHeld = isAlone && place >= 0
      slot.vacated = this.#earlier.retired(place, slot.id)
    }
  }

  /**
   * Resolves when this master leads. First everything that can live beside the earlier processes serves, then the rest.
   */
  async succeed(): Promise<void> {
    const [master, earlier] = [this.#master, this.#earlier]
    const held = master.groups.filter(({ slots }) => slots.some(({ isHeld }) => isHeld))
    await this.#unlessEnding(earlier.want(held.map(({ blueprint }) => blueprint)))
    for (const { slots } of master.groups) for (const slot of slots) slot.isHeld = false
    master.reconcile()
    await master.until(() => master.isEnding || master.isAllReady)
    if (!master.isEnding) await this.#unlessEnding(earlier.able())
    await this.#household.keeper?.rejoin() // else it would end with the earlier master
    if (master.isEnding) return
    this.#takeCharge()
    await this.#takeProbes()
    if (master.isEnding) return
    this.#lead()
    const { peers } = this.#household
    peers.onChange = (rows) => earlier.tellPeers(rows)
    earlier.tellPeers(peers.own)
    earlier.leads()
    master.onLead()
    master.sockets.release()
    for (const group of master.groups) group.forgetInnerSockets(new Set())
    master.reconcile()
  }

  /** Throws a CommandError if another process was quicker. */
  #takeCharge(): void {
    if (this.#household.lock !== null) return
    this.#master.reign.move('charged') // even if only half of it gets done
    this.#household.takeCharge(this.#earlier, this.#master.settings)
  }

  #lead(): void {
    const { reign, sockets } = this.#master
    if (!reign.leads) reign.move('leading')
    sockets.own()
  }

  /**
   * Takes the port, which the earlier master has released. Rejects with a SystemError, unless that master has gone:
   * then no one else would go on.
   */
  async #takeProbes(): Promise<void> {
    try {
      await this.#household.health.listen(this.#master.healthAddress)
    } catch (error) {
      if (!this.#earlier.isGone) throw error
      log(messageOf(error))
    }
  }

  /** The earlier master has finished, or was killed: then its processes leave on their own, or are made to. */
  async #outlive(): Promise<void> {
    const [master, household, earlier] = [this.#master, this.#household, this.#earlier]
    const { pid } = earlier.inheritance
    await household.keeper?.hold() // perhaps started meanwhile: else it would end with the earlier processes
    if (earlier.isGone) await earlier.ended()
    if (earlier.isGone) speakUp() // no one is left to name it
    // It may have left its socket's second name.
    if (earlier.isGone && household.lock?.isOurs() === true) tidy(() => household.control?.take(pid))
    if (earlier.isSettled) return
    try {
      if (!master.isEnding) {
        this.#takeCharge()
        this.#lead()
      }
      household.leftovers?.inherit()
      const { stopTimeoutMs } = master.settings
      // its last onWorkerExit runs
      const leftMs = earlier.isGone ? stopTimeoutMs : Math.max(stopTimeoutMs, CALL_TIMEOUT_MS)
      await household.leftovers?.leave(leftMs, new AbortController().signal)
    } catch (error) {
      if (household.lock === null) master.giveUp(asCommandError(error))
      else log(messageOf(error))
    }
    master.reign.settle()
    earlier.settle()
    this.#follow([])
  }

  /** Our processes tell those of the earlier master what is for all. */
  #follow(rows: readonly PeerRow[]): void {
    this.#household.peers.predecessors = rows
    this.#master.reconcile()
  }

  async #unlessEnding(step: Promise<void>): Promise<void> {
    let isDone = false
    void step.then(() => {
      isDone = true
      this.#master.reconcile()
    })
    await this.#master.until(() => isDone || this.#master.isEnding)
  }
}
