// Workerman's master callbacks: onMasterReload, onMasterStop, onWorkerExit. User code never runs in our master, so they
// run in a process of their own, one at a time, each short-lived and bounded. A callback that hangs or crashes is
// logged, and the server goes on regardless.

import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { describeExit } from '../exit-codes.ts'
import type { MasterCallback } from '../group.ts'
import type { CallbackBoot, MasterCall } from '../messages.ts'
import type { Output } from '../output/output.ts'
import { onceEnded, onceUnstarted, spawnChild } from '../spawn.ts'
import type { Code } from './programs.ts'

/** Time to evaluate the modules and to settle. */
export const CALL_TIMEOUT_MS = 10_000
/** Limit of queued `onWorkerExit` calls: a group in a crash loop must not fill the memory. */
const MOST_WAITING = 100

type CallbackSettings = Omit<CallbackBoot, 'role' | 'calls' | 'isLogPiped' | 'modules'>

export class MasterCallbacks {
  readonly #settings: CallbackSettings
  readonly #code: () => Code
  readonly #output: () => Output | null
  readonly #onSpawn: () => void
  #declared: readonly MasterCallback[] = []
  readonly #waiting: { readonly call: MasterCall; readonly settle: () => void }[] = []
  #lost = 0
  #running: Promise<void> | null = null
  #kill: (() => void) | null = null
  /** Pid of the running callback process; 0 for none. */
  pid = 0

  /** @param code what the callbacks are called in; throws a CommandError if there is none */
  constructor(settings: CallbackSettings, code: () => Code, output: () => Output | null, onSpawn: () => void) {
    this.#settings = settings
    this.#code = code
    this.#output = output
    this.#onSpawn = onSpawn
  }

  /** Sets which callbacks the code has assigned. */
  declare(callbacks: readonly MasterCallback[]): void {
    this.#declared = callbacks
  }

  /** How long the end of the server may wait for callbacks: one already running, and the last. */
  get stopMs(): number {
    return this.#declared.length === 0 ? 0 : 2 * CALL_TIMEOUT_MS
  }

  /**
   * Resolves when the callback has settled, failed or timed out; at once if the code has none. Never rejects.
   * `declared` lists the callbacks of the code on disk if that differs from the running code.
   */
  async call(call: MasterCall, declared = this.#declared): Promise<void> {
    if (!declared.includes(call.name)) return
    if (this.#waiting.length >= MOST_WAITING && call.name === 'onWorkerExit') {
      this.#lost++
      return
    }
    const settled = new Promise<void>((settle) => this.#waiting.push({ call, settle }))
    this.#running ??= this.#runAll()
    await settled // does not wait for later calls: in a crash loop they never end
  }

  /** Resolves when no callback runs or waits. */
  async settled(): Promise<void> {
    await this.#running
  }

  /** Kills the running callback, and drops all queued and future calls. */
  kill(): void {
    this.#declared = []
    for (const { settle } of this.#waiting.splice(0)) settle()
    this.#kill?.()
  }

  /** Calls that arrive while a process runs are all passed to the next process. */
  async #runAll(): Promise<void> {
    while (this.#waiting.length > 0) {
      const all = this.#waiting.splice(0)
      await this.#runWithCode(all.map(({ call }) => call))
      for (const { settle } of all) settle()
    }
    this.#running = null
  }

  async #runWithCode(calls: MasterCall[]): Promise<void> {
    if (this.#lost > 0) log(`onWorkerExit: ${this.#lost} exits were not told, there were too many`)
    this.#lost = 0
    let code: Code
    try {
      code = this.#code()
    } catch (error) {
      return log(`${namesOf(calls)}: not called: ${messageOf(error)}`)
    }
    await this.#run(calls, code)
  }

  #run(calls: MasterCall[], { program, modules }: Code): Promise<void> {
    const output = this.#output()
    const child = spawnChild(
      { ...this.#settings, modules, role: 'callback', isLogPiped: output?.isLogPiped ?? false, calls },
      { stdio: output?.stdio ?? ['ignore', 'inherit', 'inherit'], isDetached: true, program: () => program },
    )
    const { process, channel } = child
    const names = namesOf(calls)
    output?.attach(child, 'callback')
    this.pid = process.pid ?? 0
    this.#onSpawn()
    return new Promise((resolve) => {
      let failure = ''
      const end = (why: string) => {
        clearTimeout(late)
        if (why !== '') log(`${names}: ${why}`)
        channel.destroy()
        this.pid = 0
        this.#kill = null
        this.#onSpawn()
        resolve()
      }
      this.#kill = () => process.kill('SIGKILL')
      const late = setTimeout(() => {
        failure = `not settled within ${CALL_TIMEOUT_MS / 1000} s, its process is killed`
        process.kill('SIGKILL')
      }, CALL_TIMEOUT_MS)
      channel.onMessage = (message) => {
        if (message.type === 'failed') failure ||= message.message
      }
      onceUnstarted(process, (error) => end(error.message))
      onceEnded(process, (code, signal) => end(failure || (code === 0 ? '' : describeExit(code, signal))))
    })
  }
}

function namesOf(calls: readonly MasterCall[]): string {
  return [...new Set(calls.map(({ name }) => name))].join(', ')
}
