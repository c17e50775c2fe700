// The roles of a child process that evaluate user code. `describe` reports what was declared and leaves; `worker`
// serves one slot of one group until it is told to stop, its master is gone, or it fails.

import { messageOf, SystemError } from '../errors.ts'
import { guardOutput, log, nameLog } from '../log.ts'
import { Timer } from '../loop/timer.ts'
import type { Channel } from './channel.ts'
import { evaluate } from './evaluate.ts'
import { WorkerExit } from './exit-codes.ts'
import { type Group, registry } from './group.ts'
import { type Boot, type FromChild, isSameKey, keysOf, type ToChild } from './messages.ts'

type Up = Channel<ToChild, FromChild>
type Role<R> = Extract<Boot, { role: R }>

const HEARTBEAT_MS = 1000

export async function describe({ modules, argv }: Role<'describe'>, channel: Up): Promise<void> {
  channel.onClose = () => process.exit(WorkerExit.Ended) // nobody waits for the answer
  guardOutput()
  process.on('uncaughtException', (error) => fail(channel, error))
  try {
    const groups = await evaluate(modules, argv, channel)
    channel.send({ type: 'declared', groups: groups.map((group) => group.describe()), settings: registry().settings() })
    exitWhenSent(channel, WorkerExit.Ended)
  } catch (error) {
    fail(channel, error)
  }
}

export async function work(boot: Role<'worker'>, channel: Up): Promise<void> {
  const life = new WorkerLife(channel)
  guardOutput()
  process.on('uncaughtException', (error) => life.crash(error))
  process.on('SIGTERM', () => life.leave(WorkerExit.Ended, registry().settings().stopTimeoutMs))
  process.on('SIGINT', () => life.leave(WorkerExit.Ended, registry().settings().stopTimeoutMs))
  nameLog(`${boot.group.name}:${boot.id}`)
  try {
    const groups = await evaluate(boot.modules, boot.argv, channel)
    const place = keysOf(groups.map((group) => group.describe())).findIndex((key) => isSameKey(key, boot.group))
    const group = groups[place]
    if (group === undefined) throw new Error(`the module no longer declares ${boot.group.name} ${boot.group.listen}`)
    process.title = `millrace: worker process  ${boot.group.name} ${boot.group.listen || 'none'}`
    await life.serve(group, boot)
  } catch (error) {
    fail(channel, error)
  }
}

/** One worker process from its first message to its exit. */
class WorkerLife {
  readonly #channel: Up
  #group: Group | null = null
  #isLeaving = false
  #hasCrashed = false
  #memory = 0

  constructor(channel: Up) {
    this.#channel = channel
    registry().requestStop = (code) => void this.leave(code, registry().settings().stopTimeoutMs)
    channel.onClose = () => this.leave(WorkerExit.Ended, registry().settings().stopTimeoutMs) // the master is gone
    channel.onMessage = (message) => {
      if (message.type === 'stop') this.leave(WorkerExit.Ended, message.timeoutMs)
      else if (message.type === 'poll') this.#report()
    }
  }

  async serve(group: Group, boot: Role<'worker'>): Promise<void> {
    this.#group = group
    await group.start(boot.id, boot.sockets)
    this.#channel.send({ type: 'ready' })
    setInterval(() => this.#report(), HEARTBEAT_MS).unref()
  }

  /** Drains and exits, within `timeoutMs`. */
  async leave(exitCode: number, timeoutMs: number): Promise<void> {
    if (this.#isLeaving) return
    this.#isLeaving = true
    setTimeout(() => this.#exit(exitCode), timeoutMs)
    await this.#group?.drain()
    this.#exit(exitCode)
  }

  /** What nobody caught: the state of the process is unknown, so it goes, and the master starts another. */
  crash(error: unknown): void {
    if (this.#hasCrashed) return // one is enough, and more may come before this process is gone
    this.#hasCrashed = true
    if (this.#group === null) return fail(this.#channel, error)
    log(`uncaught: ${stackOf(error)}`)
    this.#report() // a message this small is written before `send` returns
    process.exit(WorkerExit.Uncaught) // at once: no handler may run any more
  }

  #exit(exitCode: number): void {
    this.#group?.stop()
    this.#report()
    exitWhenSent(this.#channel, exitCode)
  }

  #report(): void {
    const { counters } = this.#group ?? {}
    if (counters === undefined) return
    this.#memory = residentBytes() ?? this.#memory
    this.#channel.send({ type: 'report', report: { counters, memory: this.#memory, timers: Timer.count } })
  }
}

/** A SystemError is ours: a socket that cannot listen. The user's own EACCES is an error like any other. */
function fail(channel: Up, error: unknown): void {
  const isAddress = error instanceof SystemError
  const exitCode = isAddress ? WorkerExit.Address : WorkerExit.BootFailed
  channel.send({ type: 'failed', exitCode, message: isAddress ? messageOf(error) : stackOf(error) })
  exitWhenSent(channel, exitCode)
}

/** Exits when the last message has left, or soon in any case. */
function exitWhenSent(channel: Up, exitCode: number): void {
  const exit = () => process.exit(exitCode)
  channel.onClose = exit
  channel.end()
  setTimeout(exit, 200).unref()
  process.once('beforeExit', exit)
}

/** libuv reads a file for it: undefined when no descriptor is left (EMFILE), which must not end a worker. */
function residentBytes(): number | undefined {
  try {
    return process.memoryUsage.rss()
  } catch {
    return undefined
  }
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : messageOf(error)
}
