// The callbacks that Workerman runs in its master: onMasterReload, onMasterStop, onWorkerExit. User code never runs in ours, so
// they run in a process of their own, one at a time, each short-lived and bounded: what hangs or crashes there is logged, and
// the server goes on as if it had not been.

import { log } from '../../log.ts'
import { describeExit } from '../exit-codes.ts'
import type { MasterCallback } from '../group.ts'
import type { CallbackBoot, MasterCall } from '../messages.ts'
import type { Output } from '../output/output.ts'
import { onceEnded, onceUnstarted, spawnChild } from '../spawn.ts'

/** To evaluate the modules and to settle. */
export const CALL_TIMEOUT_MS = 10_000
/** Exits that wait for their turn: a group that crashes all the time must not fill the memory. */
const MOST_WAITING = 100

export type CallbackSettings = Omit<CallbackBoot, 'role' | 'calls' | 'isLogPiped'>

export class MasterCallbacks {
  readonly #settings: CallbackSettings
  readonly #output: () => Output | null
  readonly #onSpawn: () => void
  #declared: readonly MasterCallback[] = []
  readonly #waiting: { readonly call: MasterCall; readonly settle: () => void }[] = []
  #lost = 0
  #running: Promise<void> | null = null
  #kill: (() => void) | null = null
  /** Of the process that runs; 0 for none. */
  pid = 0

  constructor(settings: CallbackSettings, output: () => Output | null, onSpawn: () => void) {
    this.#settings = settings
    this.#output = output
    this.#onSpawn = onSpawn
  }

  /** Those that the code has assigned. */
  declare(callbacks: readonly MasterCallback[]): void {
    this.#declared = callbacks
  }

  /** How long the end of a server may wait for them: for one that runs, and for the last. */
  get stopMs(): number {
    return this.#declared.length === 0 ? 0 : 2 * CALL_TIMEOUT_MS
  }

  /**
   * Resolves when it has settled, failed or taken too long; at once where the code has none. Never rejects. `declared`: of the
   * code on disk, where it is another one.
   */
  async call(call: MasterCall, declared = this.#declared): Promise<void> {
    if (!declared.includes(call.name)) return
    if (this.#waiting.length >= MOST_WAITING && call.name === 'onWorkerExit') {
      this.#lost++
      return
    }
    const settled = new Promise<void>((settle) => this.#waiting.push({ call, settle }))
    this.#running ??= this.#runAll()
    await settled // not for those that come after it: in a crash loop there is no end of them
  }

  /** Resolves when none runs or waits. */
  async settled(): Promise<void> {
    await this.#running
  }

  /** For good: none is called any more. */
  kill(): void {
    this.#declared = []
    for (const { settle } of this.#waiting.splice(0)) settle()
    this.#kill?.()
  }

  /** What comes while a process runs is for the next one, all of it. */
  async #runAll(): Promise<void> {
    while (this.#waiting.length > 0) {
      const all = this.#waiting.splice(0)
      await this.#run(all.map(({ call }) => call))
      for (const { settle } of all) settle()
    }
    this.#running = null
  }

  #run(calls: MasterCall[]): Promise<void> {
    if (this.#lost > 0) log(`onWorkerExit: ${this.#lost} exits were not told, there were too many`)
    this.#lost = 0
    const output = this.#output()
    const child = spawnChild(
      { ...this.#settings, role: 'callback', isLogPiped: output?.isLogPiped ?? false, calls },
      { stdio: output?.stdio ?? ['ignore', 'inherit', 'inherit'], isDetached: true },
    )
    const { process, channel } = child
    const names = [...new Set(calls.map(({ name }) => name))].join(', ')
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
