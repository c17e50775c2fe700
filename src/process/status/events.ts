// What happens in a server, as it happens: one stream, which `millrace events` shows and the progress of long commands is
// read from. Whoever makes something happen emits it here and goes on: nobody's listening, or not, changes anything.

import type { SlotReceipt } from '../operations/receipts.ts'

/** A process. `group` is its name, `worker` its slot: `echo`, `echo:2`. */
export interface OfProcess {
  readonly group: string
  readonly worker: string
  readonly pid: number
}

/**
 * All that can happen, by `type`. Times are ms. A `reason` may have several lines; it is empty where all is well. To add one:
 * add it here and emit it.
 */
export type ServerEvent =
  /** The server as a whole. `reason` of `stopping`: what failed, or empty when somebody asked. */
  | { readonly type: 'server'; readonly state: 'starting' | 'running' | 'stopping'; readonly reason: string }
  /** A process was started. */
  | ({ readonly type: 'spawn'; readonly incarnation: number } & OfProcess)
  /** It serves, so long after its spawn. */
  | ({ readonly type: 'ready'; readonly readyMs: number } & OfProcess)
  /** Another one has its place: it gives up what only one can have. */
  | ({ readonly type: 'retire' } & OfProcess)
  /** It was told to leave within this time. */
  | ({ readonly type: 'leave'; readonly windowMs: number } & OfProcess)
  /** It is gone. `word`: `exit 0 (ended)`, `signal SIGKILL`; expected when it was told to leave. */
  | ({
      readonly type: 'exit'
      readonly word: string
      readonly reason: string
      readonly aliveMs: number
      readonly isExpected: boolean
      /** It was still there when its time was up. */
      readonly wasKilled: boolean
    } & OfProcess)
  /** A slot has lost its process: the next start comes so much later. */
  | {
      readonly type: 'backoff'
      readonly group: string
      readonly worker: string
      readonly waitMs: number
      /** In a row. */
      readonly failures: number
    }
  | OperationEvent
  /** An operation is done with a slot: its receipt. */
  | ({ readonly type: 'slot'; readonly operation: Operation; readonly group: string } & SlotReceipt)
  /** Somebody who follows was too slow: so many events before this one did not reach him. */
  | { readonly type: 'lost'; readonly count: number }

/** What somebody asks of a running server (but `recycle`: a process has reached a limit, and another takes its place), and takes its time: one at a time. Each begins and ends, but for `recycle`, which is receipts alone. */
export type Operation = 'recycle' | 'reload' | 'scale' | 'stop' | 'start' | 'restart' | 'upgrade'

/** The steps of an operation. `groups` names those it is about; empty: all. */
export type OperationEvent = {
  readonly type: 'operation'
  readonly operation: Operation
  readonly groups: readonly string[]
} & (
  | { readonly step: 'begin' }
  /** Its code has been evaluated; so many slots have to be gone through. */
  | { readonly step: 'slots'; readonly count: number }
  /** Every new process serves; those that leave are waited for. */
  | { readonly step: 'drain'; readonly count: number }
  | { readonly step: 'done'; readonly durationMs: number }
  | { readonly step: 'failed'; readonly durationMs: number; readonly reason: string }
)

/** As it is told: numbered from 1 without a gap, with its time (ISO 8601). */
export type StampedEvent = { readonly seq: number; readonly time: string } & ServerEvent

/** So many are kept for who comes later. */
const KEPT = 200
/** Characters of a reason: the whole of it is in the log. */
const LONGEST_EVENT_REASON = 4000

export class Events {
  #seq = 0
  readonly #past: StampedEvent[] = []
  readonly #listeners = new Set<(event: StampedEvent) => void>()

  /** Tells everybody, at once. Never throws. */
  emit(event: ServerEvent): void {
    const stamped = { seq: ++this.#seq, time: new Date().toISOString(), ...shortened(event) }
    this.#past.push(stamped)
    if (this.#past.length > KEPT) this.#past.shift()
    for (const listener of [...this.#listeners]) listener(stamped)
  }

  /** The newest `count`, oldest first: at most 200 are known. */
  past(count: number): readonly StampedEvent[] {
    return count > 0 ? this.#past.slice(-count) : []
  }

  /** Tells `listener` of each from now on, until the function that it returns is called. A listener must not throw. */
  follow(listener: (event: StampedEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

function shortened(event: ServerEvent): ServerEvent {
  if (!('reason' in event) || event.reason.length <= LONGEST_EVENT_REASON) return event
  return { ...event, reason: `${event.reason.slice(0, LONGEST_EVENT_REASON)}...` }
}
