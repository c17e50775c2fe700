// The other side of leaders.ts: what this process would lead (`Worker.onLeader`), and what it does lead. Leading ends here
// before the master hears of it, so that no other process can have begun.

import { setMaxListeners } from 'node:events'
import { AbortError, stackOf, UsageError } from '../../errors.ts'
import { log } from '../../log.ts'
import { Backoff } from '../../loop/backoff.ts'
import { now } from '../../loop/clock.ts'
import { deadlines } from '../../loop/deadlines.ts'

/** May give a function that ends what it has begun, or a promise: it, and what it is fulfilled with, is waited for. */
export type LeaderJob = (signal: AbortSignal) => unknown
type Send = (message: { readonly type: 'stand' | 'resign'; readonly name: string; readonly ticket: number }) => void

export class Candidates {
  readonly #send: Send
  readonly #candidates = new Map<string, Candidate>()
  /** Of this process alone; null before they begin. */
  readonly #own = new Map<LeaderJob, Term | null>()
  #isActive = false
  #isLeaving = false

  constructor(send: Send) {
    this.#send = send
  }

  /** Stands for a name. What it gives takes that back, and resolves when the job has ended. */
  add(name: string, job: LeaderJob): () => Promise<void> {
    if (this.#candidates.has(name))
      throw new UsageError(
        'ERR_LEADER_NAME',
        `onLeader('${name}') was called in this process already: use another name`,
      )
    const candidate = new Candidate(name, job, this.#send)
    this.#candidates.set(name, candidate)
    if (!this.#isLeaving) candidate.stand()
    return async () => {
      await candidate.end()
      if (this.#candidates.get(name) === candidate) this.#candidates.delete(name)
    }
  }

  /** A job of this process alone: from when it is its slot's only one, until it leaves. */
  addOwn(job: LeaderJob): () => Promise<void> {
    this.#own.set(job, this.#isActive && !this.#isLeaving ? new Term(job) : null)
    return async () => {
      const term = this.#own.get(job)
      this.#own.delete(job)
      await term?.end('it')
    }
  }

  /** This process is its slot's only one. */
  activate(): void {
    this.#isActive = true
    if (!this.#isLeaving) for (const [job, term] of this.#own) this.#own.set(job, term ?? new Term(job))
  }

  /** The master's word. */
  lead(name: string, ticket: number): void {
    this.#candidates.get(name)?.lead(ticket)
  }

  /** This process goes: resolves when every job has ended. */
  async leave(): Promise<void> {
    this.#isLeaving = true
    const own = [...this.#own.values()].map((term) => term?.end('it'))
    await Promise.all([...own, ...[...this.#candidates.values()].map((candidate) => candidate.end())])
  }

  /** What keeps `leave` from being done, in words. */
  describeWork(): string {
    if (!this.#isLeaving) return ''
    const names = [...this.#candidates].filter(([, { isLeading }]) => isLeading).map(([name]) => name)
    return names.length === 0 ? '' : `leader of ${names.join(', ')}`
  }
}

class Candidate {
  readonly #name: string
  readonly #job: LeaderJob
  readonly #send: Send
  readonly #backoff = new Backoff()
  /** Which standing this is: a word of the master's may be about the one before. 0 when it does not stand. */
  #ticket = 0
  #term: Term | null = null
  #retry = 0
  #isOver = false

  constructor(name: string, job: LeaderJob, send: Send) {
    this.#name = name
    this.#job = job
    this.#send = send
  }

  get isLeading(): boolean {
    return this.#term !== null
  }

  stand(): void {
    this.#ticket = ++lastTicket
    this.#send({ type: 'stand', name: this.#name, ticket: this.#ticket })
  }

  lead(ticket: number): void {
    if (ticket !== this.#ticket || this.#isOver) return // it has resigned since
    const term = new Term(this.#job)
    this.#term = term
    term.work.catch((error) => this.#fail(term, error))
  }

  async end(): Promise<void> {
    this.#isOver = true
    deadlines.cancel(this.#retry)
    await this.#resign()
  }

  async #resign(): Promise<void> {
    const ticket = this.#ticket
    const term = this.#term
    await term?.end(this.#name)
    if (ticket === 0 || this.#ticket !== ticket) return // said already
    this.#term = null
    this.#ticket = 0
    this.#send({ type: 'resign', name: this.#name, ticket })
  }

  /** Another process may have more luck; this one stands again later. */
  #fail(term: Term, error: unknown): void {
    if (term.isEnding) return
    term.hasFailed = true
    const waitMs = Math.max(this.#backoff.next(now() - term.beganAt), FIRST_WAIT_MS)
    log(`leader of '${this.#name}' failed: ${stackOf(error)}`)
    void this.#resign().then(() => {
      if (!this.#isOver) this.#retry = deadlines.after(waitMs, () => this.stand())
    })
  }
}

/** Of a process: what is late for one candidate is not taken for the next one of the same name. */
let lastTicket = 0
/** Time for the others to be chosen. */
const FIRST_WAIT_MS = 50

/** One time of leading. */
class Term {
  readonly beganAt = now()
  readonly work: Promise<unknown>
  /** By itself, which has been said. */
  hasFailed = false
  readonly #aborter = new AbortController()
  #end: Promise<void> | null = null

  constructor(job: LeaderJob) {
    const { signal } = this.#aborter
    setMaxListeners(0, signal) // a job may hand it to each of many requests
    this.work = (async () => job(signal))()
  }

  get isEnding(): boolean {
    return this.#end !== null
  }

  /** Never rejects. */
  end(name: string): Promise<void> {
    this.#end ??= this.#stop(name)
    return this.#end
  }

  async #stop(name: string): Promise<void> {
    this.#aborter.abort(new AbortError('ERR_LEADER_OVER', `this process does not lead '${name}' any more`))
    try {
      const stop = await this.work
      if (typeof stop === 'function') await stop()
    } catch (error) {
      const isExpected = error instanceof Error && error.name === 'AbortError'
      if (!isExpected && !this.hasFailed) log(`leader of '${name}', at its end: ${stackOf(error)}`)
    }
  }
}
