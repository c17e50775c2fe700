// Events of a server as they happen: one stream, which `millrace events` shows and which the progress of long commands
// is read from. The code that causes an event emits it and goes on; listeners make no difference to it.

import type { SlotReceipt } from '../operations/receipts.ts'

/** A process. `group` is its name, `worker` its slot: `echo`, `echo:2`. */
interface OfProcess {
  readonly group: string
  readonly worker: string
  readonly pid: number
}

/**
 * All events, by `type`. Times are in ms. A `reason` may have several lines; it is empty if all is well. To add an
 * event, add it here and emit it.
 */
export type ServerEvent =
  /** The server as a whole. `reason` of `stopping`: what failed, or empty if the stop was requested. */
  | { readonly type: 'server'; readonly state: 'starting' | 'running' | 'stopping'; readonly reason: string }
  /** A process was started. */
  | ({ readonly type: 'spawn'; readonly incarnation: number } & OfProcess)
  /** It serves, this long after its spawn. */
  | ({ readonly type: 'ready'; readonly readyMs: number } & OfProcess)
  /** Another process has its slot: it gives up its singletons. */
  | ({ readonly type: 'retire' } & OfProcess)
  /** It was told to leave within this time. */
  | ({ readonly type: 'leave'; readonly windowMs: number } & OfProcess)
  /** It has ended. `word`: `exit 0 (ended)`, `signal SIGKILL`. Expected if it was told to leave. */
  | ({
      readonly type: 'exit'
      readonly word: string
      readonly reason: string
      readonly aliveMs: number
      readonly isExpected: boolean
      /** It was still there when its time was up. */
      readonly wasKilled: boolean
    } & OfProcess)
  /** A slot has lost its process: the next start follows after `waitMs`. */
  | {
      readonly type: 'backoff'
      readonly group: string
      readonly worker: string
      readonly waitMs: number
      /** In a row. */
      readonly failures: number
    }
  | OperationEvent
  /** An operation is done with a slot: its receipt. `canary`: it has begun to watch one there. */
  | ({ readonly type: 'slot'; readonly operation: Operation; readonly group: string } & SlotReceipt)
  /** A client was too slow: this many events before this one did not reach it. */
  | { readonly type: 'lost'; readonly count: number }

/**
 * What an operator asks of a running server and takes time: one at a time, each with a begin and an end. Except
 * `recycle` (a process reached a limit and is replaced), which has receipts only.
 */
export type Operation = 'recycle' | 'reload' | 'scale' | 'stop' | 'start' | 'restart' | 'upgrade'

/** The steps of an operation. `groups` names the groups concerned; empty: all. */
export type OperationEvent = {
  readonly type: 'operation'
  readonly operation: Operation
  readonly groups: readonly string[]
} & (
  | { readonly step: 'begin' }
  /** The code has been evaluated; this many slots have to be processed. */
  | { readonly step: 'slots'; readonly count: number }
  /** Every new process serves; this many are still leaving. */
  | { readonly step: 'drain'; readonly count: number }
  | { readonly step: 'done'; readonly durationMs: number }
  | { readonly step: 'failed'; readonly durationMs: number; readonly reason: string }
)

/** An event as it is published: numbered from 1 without gaps, with its time (ISO 8601). */
export type StampedEvent = { readonly seq: number; readonly time: string } & ServerEvent

/** This many past events are kept for new followers. */
const KEPT = 200
/** Maximum length of a reason, in characters; the log has all of it. */
const LONGEST_EVENT_REASON = 4000

export class Events {
  #seq = 0
  readonly #past: StampedEvent[] = []
  readonly #listeners = new Set<(event: StampedEvent) => void>()

  /** Calls every listener at once. Never throws. */
  emit(event: ServerEvent): void {
    const stamped = { seq: ++this.#seq, time: new Date().toISOString(), ...shortened(event) }
    this.#past.push(stamped)
    if (this.#past.length > KEPT) this.#past.shift()
    for (const listener of [...this.#listeners]) listener(stamped)
  }

  /** The newest `count` events, oldest first; at most 200 are kept. */
  past(count: number): readonly StampedEvent[] {
    return count > 0 ? this.#past.slice(-count) : []
  }

  /** Calls `listener` for each new event until the returned function is called. A listener must not throw. */
  follow(listener: (event: StampedEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

function shortened(event: ServerEvent): ServerEvent {
  if (!('reason' in event) || event.reason.length <= LONGEST_EVENT_REASON) return event
  return { ...event, reason: `${event.reason.slice(0, LONGEST_EVENT_REASON)}...` }
}
