// The events of a server in a sandbox, as a follower receives them.

import { follow } from '../../src/process/control/client.ts'
import type { EventLine } from '../../src/process/status/event-stream.ts'
import type { Sandbox } from './server.ts'
import { until } from './until.ts'

type Told = EventLine['event']

export class Followed {
  readonly all: Told[] = []
  ended: Promise<void> = Promise.resolve()
  close: () => void = () => undefined

  /** Follows from now on; includes the last `past` events. */
  static async of({ runDir }: Sandbox, past = 0): Promise<Followed> {
    const followed = new Followed()
    const { answer, ended, close } = await follow(runDir, past, (event) => followed.all.push(event))
    if (answer?.ok !== true) throw new Error(`events: ${JSON.stringify(answer)}`)
    return Object.assign(followed, { ended, close })
  }

  /** Each event as a word, such as `spawn`, or with a step, such as `reload begin`. */
  get words(): string[] {
    return this.all.map(wordOf)
  }

  /** Of which worker what was told in a receipt, sorted. */
  get receipts(): string[] {
    return this.all.flatMap((event) => (event.type === 'slot' ? `${event.worker} ${event.result}` : [])).sort()
  }

  /** Waits for an event with all of these properties. Returns the first one. */
  async of(wanted: Partial<Record<string, unknown>>, ms = 20_000): Promise<Told> {
    const found = () =>
      this.all.find((event) => Object.entries(wanted).every(([key, value]) => Reflect.get(event, key) === value))
    await until(() => found() !== undefined, ms).catch((error) => {
      throw new Error(`no ${JSON.stringify(wanted)} among ${JSON.stringify(this.all)}`, { cause: error })
    })
    return found() as Told
  }
}

export function wordOf(event: Told): string {
  if (event.type === 'operation') return `${event.operation} ${event.step}`
  return event.type === 'server' ? `server ${event.state}` : event.type
}
