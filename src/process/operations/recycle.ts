// Replaces processes that have reached a limit (lifespan.ts) as a reload does: the next one is ready before the old one
// is told to leave, so a group never has fewer. One at a time per group, and never beside a reload or a stop.

import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { Backoff, HEALTHY_AFTER_MS } from '../../loop/backoff.ts'
import { now } from '../../loop/clock.ts'
import type { GroupState } from '../master/group-state.ts'
import type { Slot } from '../master/slot.ts'
import type { WorkerHandle } from '../master/worker-handle.ts'
import { Lifespan, type Reached } from './lifespan.ts'
import { type Supervisor, Turnover } from './turnover.ts'

/** What recycling needs from its master in addition. */
export interface RecycleSupervisor extends Supervisor {
  /** Runs `work` when no reload runs; none begins before it has settled. */
  exclusively(work: () => Promise<void>): Promise<void>
  readonly isStopping: boolean
}

/** This many short-lived processes in a row: the limit is too low, and only the back-off keeps it from spinning. */
const HASTY_IN_A_ROW = 3

/** The limits of a process and, once it has reached one, when it may be replaced. */
interface Life {
  readonly span: Lifespan
  dueAt: number
  /** It reached its limit so soon that the next one will, too. */
  isHasty: boolean
}

export class Recycling {
  readonly #supervisor: RecycleSupervisor
  readonly #lives = new WeakMap<WorkerHandle, Life>()
  readonly #backoffs = new WeakMap<Slot, Backoff>()
  /** Groups with a process that is being replaced. */
  readonly #busy = new Set<GroupState>()

  constructor(supervisor: RecycleSupervisor) {
    this.#supervisor = supervisor
  }

  /** Call with each report. The reports of a process that waits for its turn bring it up again. */
  look(group: GroupState, slot: Slot, handle: WorkerHandle): void {
    if (slot.current !== handle || handle.state !== 'ready') return
    const life = this.#lifeOf(group, handle)
    const warning = life.span.begin(handle.memoryAtReady || handle.report.memory)
    if (warning !== '') log(`worker ${group.name}:${slot.id} pid ${handle.pid}: ${warning}`)
    const reached = life.span.reached(handle.report, now() - handle.startedAt)
    if (reached === null) return
    if (life.dueAt === Number.POSITIVE_INFINITY) {
      life.dueAt = now() + this.#backoffOf(slot).next(handle.servedMs)
      life.isHasty = handle.servedMs < HEALTHY_AFTER_MS && this.#backoffOf(slot).failures >= HASTY_IN_A_ROW
    }
    if (now() < life.dueAt || this.#busy.has(group) || slot.isHeld || this.#supervisor.isStopping) return
    void this.#recycle(group, slot, handle, reached)
  }

  async #recycle(group: GroupState, slot: Slot, handle: WorkerHandle, { limit, words }: Reached): Promise<void> {
    const name = `worker ${group.name}:${slot.id} pid ${handle.pid}`
    const hint = this.#lifeOf(group, handle).isHasty ? `; again within seconds of its start: raise ${limit}` : ''
    const reload = new Turnover(this.#supervisor, 'recycle')
    this.#busy.add(group)
    try {
      await this.#supervisor.exclusively(async () => {
        const isOver = slot.current !== handle || handle.state !== 'ready' || this.#supervisor.isStopping
        if (isOver || group.isGone || group.isStopped) return // a reload or a crash was quicker
        handle.leavesFor = limit
        await reload.recycle(group, slot)
        group.countRecycled(limit)
        log(`${name}: ${words}, ${limit}: pid ${slot.current?.pid ?? 0} has its place${hint}`)
      })
      await reload.drained()
    } catch (error) {
      handle.leavesFor = ''
      this.#lifeOf(group, handle).dueAt = now() + this.#backoffOf(slot).next(0)
      const isThere = slot.current === handle // with stop-first it has left before the next one failed
      if (!isThere && (await handle.gone).wasTold) group.countRecycled(limit)
      if (this.#supervisor.isStopping) return
      log(`${name}: ${words}, ${limit}: ${isThere ? 'it stays' : 'it has ended'}, ${messageOf(error)}`)
    } finally {
      this.#busy.delete(group)
    }
  }

  #lifeOf({ blueprint }: GroupState, handle: WorkerHandle): Life {
    const life = this.#lives.get(handle) ?? {
      span: new Lifespan(blueprint.declaration),
      dueAt: Number.POSITIVE_INFINITY,
      isHasty: false,
    }
    this.#lives.set(handle, life)
    return life
  }

  #backoffOf(slot: Slot): Backoff {
    const backoff = this.#backoffs.get(slot) ?? new Backoff()
    this.#backoffs.set(slot, backoff)
    return backoff
  }
}
