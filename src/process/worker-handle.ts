// A worker as the master sees it: a process, its channel, and where it is in its life.
//
//   Starting -> Ready -> Stopping -> Gone      each state may go straight to Gone: a process can die at any time

import { addCounters, type Counters, newCounters } from '../counters.ts'
import { now } from '../loop/clock.ts'
import { describeExit, WorkerExit } from './exit-codes.ts'
import type { Boot, FromChild, Report } from './messages.ts'
import { type Child, spawnChild } from './spawn.ts'

export type WorkerState = 'starting' | 'ready' | 'stopping' | 'gone'

const EDGES: Record<WorkerState, readonly WorkerState[]> = {
  starting: ['ready', 'stopping', 'gone'],
  ready: ['stopping', 'gone'],
  stopping: ['gone'],
  gone: [],
}

/** A worker ends itself within its time to stop; the kill is for one that cannot, and comes this much later. */
const KILL_SLACK_MS = 500

export interface WorkerExitInfo {
  readonly exitCode: number
  /** As words: `exit 70 (boot failed)`. */
  readonly word: string
  /** What the worker said of its own failure, with a stack; empty when it could not. */
  readonly reason: string
  readonly hadBeenReady: boolean
  readonly hasTimedOut: boolean
  readonly aliveMs: number
}

export class WorkerHandle {
  onReady: (() => void) | null = null
  onGone: ((exit: WorkerExitInfo) => void) | null = null
  readonly startedAt = now()
  state: WorkerState = 'starting'
  report: Report = { counters: newCounters(), memory: 0, timers: 0 }
  readonly #child: Child
  #reason = ''
  #reasonCode: number | null = null
  #isReady = false
  #hasTimedOut = false
  #deadline: NodeJS.Timeout | undefined
  /** Who waits for the next report: several may ask at once. */
  #onReport: (() => void)[] = []

  constructor(boot: Boot, fds: readonly number[], startTimeoutMs: number) {
    this.#child = spawnChild(boot, { stdio: ['ignore', 'inherit', 'inherit'], fds, isDetached: true })
    this.#child.channel.onMessage = (message) => this.#receive(message)
    this.#child.process.once('error', (error) => this.#gone(null, null, error.message)) // spawn itself failed
    this.#child.process.once('exit', (code, signal) => this.#gone(code, signal, ''))
    this.#deadline = setTimeout(() => this.#timeOut(startTimeoutMs), startTimeoutMs)
  }

  /** 0 when the spawn failed. */
  get pid(): number {
    return this.#child.process.pid ?? 0
  }

  /** Asks it to end its connections and leave; kills it when it has not within `timeoutMs`. */
  stop(timeoutMs: number): void {
    if (this.state === 'gone' || this.state === 'stopping') return
    const isBooting = this.state === 'starting'
    this.#move('stopping')
    clearTimeout(this.#deadline)
    this.#deadline = setTimeout(() => this.kill(), timeoutMs + KILL_SLACK_MS)
    this.#child.channel.send({ type: 'stop', timeoutMs })
    if (isBooting) this.#child.process.kill('SIGTERM') // it may not read its channel yet
  }

  kill(): void {
    if (this.state !== 'gone') this.#child.process.kill('SIGKILL')
  }

  /** A fresh report, or false when the worker does not answer in time: it is busy. */
  poll(timeoutMs: number): Promise<boolean> {
    if (this.state === 'gone') return Promise.resolve(true)
    return new Promise((resolve) => {
      const late = setTimeout(() => resolve(false), timeoutMs)
      this.#onReport.push(() => {
        clearTimeout(late)
        resolve(true)
      })
      this.#child.channel.send({ type: 'poll' })
    })
  }

  /** What this process has counted, as something to add to a slot's past: it has no connections any more. */
  countersOfThePast(): Counters {
    return { ...addCounters(newCounters(), this.report.counters), connections: 0 }
  }

  #move(to: WorkerState): void {
    if (!EDGES[this.state].includes(to)) throw new Error(`a worker does not go from ${this.state} to ${to}`)
    this.state = to
  }

  #receive(message: FromChild): void {
    if (this.state === 'gone') return
    if (message.type === 'ready' && this.state === 'starting') {
      clearTimeout(this.#deadline)
      this.#isReady = true
      this.#move('ready')
      this.onReady?.()
    } else if (message.type === 'report') {
      this.report = message.report
      this.#tellReport()
    } else if (message.type === 'failed') {
      this.#reason = message.message
      this.#reasonCode = message.exitCode
    }
  }

  #tellReport(): void {
    for (const tell of this.#onReport.splice(0)) tell()
  }

  #timeOut(ms: number): void {
    this.#hasTimedOut = true
    this.#reason = `not ready within ${ms / 1000} s (startTimeoutMs): has onWorkerStart settled?`
    this.kill()
  }

  #gone(code: number | null, signal: string | null, spawnError: string): void {
    if (this.state === 'gone') return
    this.#move('gone')
    clearTimeout(this.#deadline)
    this.#child.channel.destroy()
    this.#tellReport()
    this.onGone?.({
      exitCode: code ?? this.#reasonCode ?? WorkerExit.Uncaught,
      word: spawnError === '' ? describeExit(code, signal) : `spawn failed: ${spawnError}`,
      reason: this.#reason,
      hadBeenReady: this.#isReady,
      hasTimedOut: this.#hasTimedOut,
      aliveMs: now() - this.startedAt,
    })
  }
}
