// A server whose workers are driven by a test: `driver` has a text address where each line is a piece of code that the
// worker runs, answered with the result as JSON. So one server serves many tests.

import { ask, type Sandbox } from './server.ts'

/**
 * The text of a module: `before` is code placed ahead of `runAll`; it can use `driver` and everything of 'millrace'.
 */
export function driven(before: string, count = 1): string {
  return `
    import * as millrace from 'millrace'
    const { Worker, Channel, Timer } = millrace
    const AsyncFunction = (async () => undefined).constructor
    const driver = new Worker('text://127.0.0.1:0', { name: 'driver', count })
    const state = {}
    driver.onMessage = async (connection, code) => {
      const scope = { millrace, Worker, Channel, driver, state, groups: Object.fromEntries(Worker.getAllWorkers().map((one) => [one.name, one])) }
      const shown = (value) => (value instanceof Error ? { error: value.name, code: value.code, message: value.message, may: value.mayHaveBeenHandled } : value)
      try {
        const value = await new AsyncFunction(...Object.keys(scope), 'shown', JSON.parse(code))(...Object.values(scope), shown)
        connection.send(JSON.stringify({ value: shown(value) ?? null }))
      } catch (error) {
        connection.send(JSON.stringify({ thrown: shown(error) }))
      }
    }
    ${before}
    Worker.runAll()
  `.replace('count }', `count: ${count} }`)
}

export interface Thrown {
  readonly error: string
  readonly code?: string
  readonly message: string
  readonly may?: boolean
}

/** Runs `code` in a driver and returns its result. Throws what the code throws, as text. */
export async function drive<T>(port: number, code: string): Promise<T> {
  const { value, thrown } = JSON.parse(await ask(port, JSON.stringify(code))) as { value: T; thrown?: Thrown }
  if (thrown !== undefined) throw new Error(JSON.stringify(thrown))
  return value
}

/** Runs `code` in a driver and returns what it throws. */
export async function driveToThrow(port: number, code: string): Promise<Thrown> {
  const { value, thrown } = JSON.parse(await ask(port, JSON.stringify(code))) as { value: unknown; thrown?: Thrown }
  if (thrown === undefined) throw new Error(`should have thrown, and gave ${JSON.stringify(value)}`)
  return thrown
}

/** Starts a driven server. Returns the driver's port. */
export async function startDriven(box: Sandbox, before: string, ...args: string[]): Promise<number> {
  const { groups } = await box.start(box.file('app.js', driven(before)), ...args)
  return groups.find(({ name }) => name === 'driver')?.port ?? 0
}
