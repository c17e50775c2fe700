// Replaces workers that hang (watchdog.ts): logs where they hang if that can be found out, then kills them; the crash
// policy starts the next one. One at a time, and the next only when that slot serves again: if all wait for the same
// thing, killing half the group does not help.

import { log } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { isRunning, isStopped } from '../identity.ts'
import { HEARTBEAT_MS } from '../messages.ts'
import type { GroupState } from './group-state.ts'
import { hungStack } from './hung-stack.ts'
import type { Slot } from './slot.ts'
import { Watchdog, type Watched } from './watchdog.ts'
import type { WorkerHandle } from './worker-handle.ts'

/** A slot that has not come back after this time no longer delays the others. */
const NEXT_AFTER_MS = 30_000

interface Suspect extends Watched {
  readonly handle: WorkerHandle
  readonly slot: Slot
  readonly group: GroupState
}

export class StuckWorkers {
  readonly #watchdog: Watchdog
  readonly #now: () => number
  readonly #groups: readonly GroupState[]
  readonly #places = new WeakMap<WorkerHandle, Suspect>()
  #isBusy = false
  #last: { slot: Slot; handle: WorkerHandle; at: number } | null = null
  /** A process blocked in the kernel (state D) may not end for a long time, whatever the signal. */
  readonly #killed = new WeakSet<WorkerHandle>()
  #timer: NodeJS.Timeout | undefined

  constructor(groups: readonly GroupState[], clock: () => number = now) {
    this.#now = clock
    this.#watchdog = new Watchdog(HEARTBEAT_MS, isStopped, clock())
    this.#groups = groups
  }

  start(): void {
    this.#timer = setInterval(() => this.look(), HEARTBEAT_MS).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Call once a second. */
  look(): void {
    const places = this.#groups.flatMap((group) => group.slots.map((slot) => this.#placeOf(group, slot)))
    const [worst] = this.#watchdog.look(
      this.#now(),
      places.filter((place) => place !== null),
    )
    if (worst !== undefined && !this.#isBusy && this.#isLastBack()) void this.#replace(worst as Suspect)
  }

  /** Only processes that serve: before that `startTimeoutMs` applies, afterwards the drain window. */
  #placeOf(group: GroupState, slot: Slot): Suspect | null {
    const handle = slot.current
    if (handle === null || handle.state !== 'ready' || this.#killed.has(handle)) return null
    const place = this.#places.get(handle) ?? {
      ...{ handle, slot, group, pid: handle.pid, stuckTimeoutMs: handle.stuckTimeoutMs },
      get heardAt() {
        return handle.heardAt
      },
      get isInspected() {
        return handle.isInspected
      },
    }
    this.#places.set(handle, place)
    return place
  }

  #isLastBack(): boolean {
    if (this.#last === null || this.#now() - this.#last.at > NEXT_AFTER_MS) return true
    const { slot, handle } = this.#last
    return slot.current !== handle && slot.current?.state === 'ready'
  }

  async #replace({ group, slot, handle }: Suspect): Promise<void> {
    this.#isBusy = true
    const silence = `its event loop has not turned for ${Math.round(handle.silentMs / 1000)} s (stuckTimeoutMs)`
    log(`worker ${group.name}:${slot.id} pid ${handle.pid}: ${silence}, it is killed`)
    handle.condemn('stuck', silence) // SIGUSR1 may end it, if its Node was told not to handle that
    const where = handle.isLogPiped ? await hungStack(handle.pid, handle.nextInspectorUrl()) : ''
    handle.condemn('stuck', `${silence}\n${where || withoutStack(handle)}`)
    handle.kill() // even if it runs again by now: its inspector is open
    this.#killed.add(handle)
    this.#last = { slot, handle, at: this.#now() }
    void handle.gone.then(() => group.countRecycled('stuck'))
    this.#isBusy = false
  }
}

function withoutStack({ pid, isLogPiped }: WorkerHandle): string {
  const doing = isRunning(pid) ? 'it was running' : 'it was waiting in a system call'
  if (isLogPiped) return `    without a stack of JavaScript: ${doing}`
  return `    its stack is only known where its log comes through the master (a daemon, --log-file, --log-format json): ${doing}`
}
