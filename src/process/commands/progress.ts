// Progress of a long command, on stderr, from the events of the server: one changing line on a terminal, otherwise
// separate lines. Silent with -q and --json.

import { now } from '../../loop/clock.ts'
import { follow } from '../control/client.ts'
import type { EventLine } from '../status/event-stream.ts'
import { phraseOf } from '../terminal/event-lines.ts'
import { canMoveCursor } from '../terminal/style.ts'
import type { Flags } from './line.ts'
import type { Found } from './server.ts'

/** How often the seconds are updated. */
const TICK_MS = 1000

/** Runs `work`, a request to the server at `found`, and shows its progress. */
export async function withProgress<T>({ quiet, json }: Flags, found: Found, work: () => Promise<T>): Promise<T> {
  if (quiet === true || json === true) return work()
  const progress = canMoveCursor(process.stderr) ? new LiveLine(process.stderr) : new Lines(process.stderr)
  // If the events cannot be followed, since too many clients do, there is just no progress display.
  const followed = await follow(found.path, 0, (event) => progress.tell(event), found.uid).catch(() => null)
  try {
    return await work()
  } finally {
    followed?.close()
    progress.end()
  }
}

type Output = Pick<NodeJS.WriteStream, 'write'> & { readonly columns?: number }

class Lines {
  readonly #output: Output

  constructor(output: Output) {
    this.#output = output
  }

  tell(event: EventLine['event']): void {
    const isShown = event.type === 'slot' || event.type === 'backoff' || event.type === 'exit' || isStep(event)
    if (isShown) this.#output.write(`${phraseOf(event)}\n`)
  }

  end(): void {
    // Lines are never erased.
  }
}

/** Another receipt of the same slot follows. */
function isInterim({ result, newPid }: Extract<EventLine['event'], { type: 'slot' }>): boolean {
  return result === 'canary' || (result === 'replaced' && newPid === 0)
}

function isStep(event: EventLine['event']): boolean {
  return event.type === 'operation' && (event.step === 'begin' || event.step === 'drain')
}

/** `reload: 3 of 8, 2 leaving, 4 s`. */
export class LiveLine {
  readonly #output: Output
  readonly #started = now()
  readonly #tick: NodeJS.Timeout
  readonly #leaving = new Set<number>()
  #what = ''
  #total = 0
  #done = 0
  #isShown = false

  constructor(output: Output) {
    this.#output = output
    this.#tick = setInterval(() => this.#draw(), TICK_MS).unref()
  }

  tell(event: EventLine['event']): void {
    if (event.type === 'operation') this.#follow(event.operation, event)
    else if (event.type === 'server') this.#what = event.state
    else if (event.type === 'slot') this.#done += isInterim(event) ? 0 : 1
    else if (event.type === 'leave') this.#leaving.add(event.pid)
    else if (event.type === 'exit') this.#leaving.delete(event.pid)
    this.#draw()
  }

  end(): void {
    clearInterval(this.#tick)
    if (this.#isShown) this.#output.write('\r\x1b[2K')
  }

  #follow(operation: string, event: Extract<EventLine['event'], { type: 'operation' }>): void {
    if (event.step === 'begin') {
      this.#what = [operation, ...event.groups].join(' ')
      this.#total = this.#done = 0
    } else if (event.step === 'slots') this.#total = event.count
  }

  #draw(): void {
    if (this.#what === '') return
    const parts = [
      this.#total === 0 ? '' : `${Math.min(this.#done, this.#total)} of ${this.#total}`,
      this.#leaving.size === 0 ? '' : `${this.#leaving.size} leaving`,
      `${Math.floor((now() - this.#started) / 1000)} s`,
    ]
    const text = `${this.#what}: ${parts.filter((part) => part !== '').join(', ')}`
    this.#output.write(`\r\x1b[2K${text.slice(0, (this.#output.columns || 80) - 1)}`)
    this.#isShown = true
  }
}
