// Decides what happens to a slot that has lost its process: a new process, at once or after the back-off. Before
// everything has been ready once, a failure can also end a start that cannot succeed.

import { log } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { inSeconds } from '../../times.ts'
import { bootFailure, type CommandError, Exit } from '../exit-codes.ts'
import { isStopFirst } from '../operations/turnover.ts'
import type { Events } from '../status/events.ts'
import type { GroupState } from './group-state.ts'
import type { Slot } from './slot.ts'
import { isVoluntary, SHORTEST_SERVICE_MS, type WorkerExitInfo, type WorkerHandle } from './worker-handle.ts'

/** This many boot failures of one slot before anything serves mean that the program is broken. */
const MAX_BOOT_FAILURES = 5
/** So many processes of a slot may drain before one that leaves has to be gone for its successor to start. */
const MOST_LEAVING = 8

/** What the crash policy needs from its master. */
export interface Restarter {
  readonly events: Events
  /** Everything has been ready once: from then on failures are retried forever. */
  readonly isUp: boolean
  readonly isEnding: boolean
  reconcile(): void
  giveUp(why: CommandError): void
}

export class CrashPolicy {
  readonly #master: Restarter

  constructor(master: Restarter) {
    this.#master = master
  }

  /** Called when `handle`, the slot's process, has gone. */
  replaceLost(group: GroupState, slot: Slot, handle: WorkerHandle, exit: WorkerExitInfo): void {
    const name = `worker ${group.name}:${slot.id}`
    this.#judgeFirstStart(slot, exit, `${name}: ${exit.reason || exit.word}`)
    if (this.#master.isEnding) return
    const waitMs = isVoluntary(exit) ? 0 : slot.backoff.next(exit.servedMs)
    const next = slot.isHeld ? 'none is started until the operation on its slot is done' : another(waitMs)
    log(`${name} pid ${handle.pid}: ${exit.word}, ${next}${exit.isLogged ? '' : exit.reason && `\n${exit.reason}`}`)
    this.#tellCrashLoop(name, group, slot)
    if (!slot.isHeld) this.#wait(group, slot, waitMs)
  }

  /**
   * Called after every change: a process that leaves on its own serves nobody while it drains, so its successor does
   * not wait for its end if two may live at the same time. Earlier ones that still drain are no reason to wait.
   */
  replaceLeaving(group: GroupState, slot: Slot): void {
    const { current: handle, next, leaving } = slot
    if (handle === null || handle.announcedExitCode === null || !this.#master.isUp) return
    const isFree = next === null && !slot.isHeld && leaving.size < MOST_LEAVING
    if (!isFree || isStopFirst(slot, group.blueprint)) return
    const name = `worker ${group.name}:${slot.id}`
    const isWell = !handle.isFailing && handle.servedMs >= SHORTEST_SERVICE_MS
    const waitMs = isWell ? 0 : slot.backoff.next(handle.servedMs)
    leaving.add(handle)
    slot.current = null
    const how = handle.isFailing ? ` with exit code ${handle.announcedExitCode}` : ''
    log(`${name} pid ${handle.pid}: leaves by itself${how}, ${another(waitMs)}`)
    if (!isWell) this.#tellCrashLoop(name, group, slot)
    this.#wait(group, slot, waitMs)
  }

  /** The slot's process is gone, and its replacement failed to start. */
  retryLater(group: GroupState, slot: Slot): void {
    this.#wait(group, slot, slot.backoff.next(0))
  }

  #tellCrashLoop(name: string, group: GroupState, { backoff: { failures } }: Slot): void {
    if (failures !== group.blueprint.declaration.crashLoopAfter) return
    log(`${name}: crash loop, ${failures} failures in a row: it is tried again, ever later; see 'status'`)
  }

  #wait(group: GroupState, slot: Slot, waitMs: number): void {
    const { failures } = slot.backoff
    const worker = `${group.name}:${slot.id}`
    this.#master.events.emit({ type: 'backoff', group: group.name, worker, waitMs: Math.round(waitMs), failures })
    slot.wait(waitMs, () => this.#master.reconcile(), now())
  }

  /** Before everything has been ready once, a failure may be final. */
  #judgeFirstStart(slot: Slot, exit: WorkerExitInfo, message: string): void {
    const master = this.#master
    if (master.isUp || isVoluntary(exit)) return
    const failure = bootFailure(exit, message)
    const isFinal = failure.exitCode === Exit.Address || failure.exitCode === Exit.Timeout
    if (isFinal || ++slot.bootFailures >= MAX_BOOT_FAILURES) master.giveUp(failure)
  }
}

function another(waitMs: number): string {
  return `starting another${waitMs === 0 ? '' : ` in ${inSeconds(waitMs)}`}`
}
