// The worker side of leaders.ts: the names this process stands for (`Worker.onLeader`), and those it leads. A term ends
// here before the master is notified, so no other process can have begun.

import { setMaxListeners } from 'node:events'
import { AbortError, stackOf, UsageError } from '../../errors.ts'
import { log } from '../../log.ts'
import { Backoff } from '../../loop/backoff.ts'
import { now } from '../../loop/clock.ts'
import { deadlines } from '../../loop/deadlines.ts'

/** May return a function that ends what it began, or a promise. Both are awaited, and so is the fulfilled value. */
export type LeaderJob = (signal: AbortSignal) => unknown
type Send = (message: { readonly type: 'stand' | 'resign'; readonly name: string; readonly ticket: number }) => void

export class Candidates {
  readonly #send: Send
  /**
   * A candidate whose job is ending stays until that has ended. The next one of its name waits until the master
   * makes it the leader.
   */
  readonly #candidates = new Set<Candidate>()
  /** Jobs of this process alone; null until they begin. */
  readonly #own = new Map<LeaderJob, Term | null>()
  #isActive = false
  #isLeaving = false

  constructor(send: Send) {
    this.#send = send
  }

  /** Stands for a name. The returned function withdraws, and resolves when the job has ended. */
  add(name: string, job: LeaderJob): () => Promise<void> {
    if ([...this.#candidates].some((one) => one.name === name && !one.isOver))
      throw new UsageError(
        'ERR_LEADER_NAME',
        `this process has a job '${name}' already: end that one first, or use another name`,
      )
    const candidate = new Candidate(name, job, this.#send)
    this.#candidates.add(candidate)
    if (!this.#isLeaving) candidate.stand()
    return async () => {
      await candidate.end()
      this.#candidates.delete(candidate)
    }
  }

  /** Runs a job of this process alone: from when it is the only process of its slot until it leaves. */
  addOwn(job: LeaderJob): () => Promise<void> {
    this.#own.set(job, this.#isActive && !this.#isLeaving ? new Term(job) : null)
    return async () => {
      const term = this.#own.get(job)
      this.#own.delete(job)
      await term?.end('it')
    }
  }

  /** From now on this process is the only one of its slot. */
  activate(): void {
    this.#isActive = true
    if (!this.#isLeaving) for (const [job, term] of this.#own) this.#own.set(job, term ?? new Term(job))
  }

  /** The master has made this process the leader. */
  lead(name: string, ticket: number): void {
    for (const candidate of this.#candidates) if (candidate.name === name) candidate.lead(ticket)
  }

  /** Resigns from everything and accepts nothing more. Resolves when every job has ended. */
  async leave(): Promise<void> {
    this.#isLeaving = true
    const own = [...this.#own.values()].map((term) => term?.end('it'))
    await Promise.all([...own, ...[...this.#candidates].map((candidate) => candidate.end())])
  }

  /** What keeps `leave` from finishing, in words. */
  describeWork(): string {
    if (!this.#isLeaving) return ''
    const names = [...this.#candidates].filter(({ isLeading }) => isLeading).map(({ name }) => name)
    return names.length === 0 ? '' : `leader of ${names.join(', ')}`
  }
}

class Candidate {
  readonly name: string
  readonly #job: LeaderJob
  readonly #send: Send
  readonly #backoff = new Backoff()
  /**
   * Identifies the current candidacy, since a message from the master may concern an earlier one. 0 when not standing.
   */
  #ticket = 0
  #term: Term | null = null
  #retry = 0
  /** It was withdrawn. Its job may not have ended yet. */
  isOver = false

  constructor(name: string, job: LeaderJob, send: Send) {
    this.name = name
    this.#job = job
    this.#send = send
  }

  get isLeading(): boolean {
    return this.#term !== null
  }

  stand(): void {
    this.#ticket = ++lastTicket
    this.#send({ type: 'stand', name: this.name, ticket: this.#ticket })
  }

  lead(ticket: number): void {
    if (ticket !== this.#ticket || this.isOver) return // resigned since
    const term = new Term(this.#job)
    this.#term = term
    term.work.catch((error) => this.#fail(term, error))
  }

  async end(): Promise<void> {
    this.isOver = true
    deadlines.cancel(this.#retry)
    await this.#resign()
  }

  async #resign(): Promise<void> {
    const ticket = this.#ticket
    const term = this.#term
    await term?.end(this.name)
    if (ticket === 0 || this.#ticket !== ticket) return // already reported
    this.#term = null
    this.#ticket = 0
    this.#send({ type: 'resign', name: this.name, ticket })
  }

  /** Another process may succeed, so this one stands again only later. */
  #fail(term: Term, error: unknown): void {
    if (term.isEnding) return
    term.hasFailed = true
    const waitMs = Math.max(this.#backoff.next(now() - term.beganAt), FIRST_WAIT_MS)
    log(`leader of '${this.name}' failed: ${stackOf(error)}`)
    void this.#resign().then(() => {
      if (!this.isOver) this.#retry = deadlines.after(waitMs, () => this.stand())
    })
  }
}

/**
 * One counter for the process, so that a late message for one candidate does not reach the next one of the same name.
 */
let lastTicket = 0
/** Time for another candidate to be chosen. */
const FIRST_WAIT_MS = 50

/** One term of leadership. */
class Term {
  readonly beganAt = now()
  readonly work: Promise<unknown>
  /** The job failed on its own; this has been reported. */
  hasFailed = false
  readonly #aborter = new AbortController()
  #end: Promise<void> | null = null

  constructor(job: LeaderJob) {
    const { signal } = this.#aborter
    setMaxListeners(0, signal) // a job may pass the signal to many requests
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
