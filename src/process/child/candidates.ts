// The worker side of leaders.ts: the names this process stands for (`Worker.onLeader`), and those it leads. A term ends
// here before the master is notified, so no other process can have begun.

import { setMaxListeners } from 'node:events'
import { AbortError, stackOf, UsageError } from '../../errors.ts'
import { log } from '../../log.ts'
import { Backoff } from '../../loop/backoff.ts'
import { now } from '../../loop/clock.ts'
import { deadlines } from '../../loop/deadlines.ts'
import { nothing } from '../../nothing.ts'

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
  /** Jobs of this process alone. */
  readonly #own = new Set<OwnJob>()
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

  /**
   * Runs a job of this process alone: from when it is the only process of its slot until it leaves.
   * @param name what it is called in reports of what a leaving process waits for
   */
  addOwn(name: string, job: LeaderJob): () => Promise<void> {
    const own = new OwnJob(name, job)
    this.#own.add(own)
    if (this.#isActive && !this.#isLeaving) own.begin()
    return async () => {
      await own.end()
      this.#own.delete(own)
    }
  }

  /** From now on this process is the only one of its slot. */
  activate(): void {
    this.#isActive = true
    if (!this.#isLeaving) for (const own of this.#own) own.begin()
  }

  /** The master has made this process the leader. */
  lead(name: string, ticket: number): void {
    for (const candidate of this.#candidates) if (candidate.name === name) candidate.lead(ticket)
  }

  /**
   * Resigns from everything and accepts nothing more. A job that is at work holds the process until it has ended: what
   * it does last is work of the process as any other.
   */
  leave(hold: (why: string) => () => void): void {
    if (this.#isLeaving) return
    this.#isLeaving = true
    for (const own of this.#own) if (own.isAtWork) void own.end().then(hold(own.name))
    for (const one of this.#candidates) {
      const release = one.isLeading ? hold(`leader of ${one.name}`) : nothing
      void one.end().then(release)
    }
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

class OwnJob {
  readonly name: string
  readonly #job: LeaderJob
  #term: Term | null = null
  /** It was withdrawn, or its process leaves. */
  #isOver = false

  constructor(name: string, job: LeaderJob) {
    this.name = name
    this.#job = job
  }

  get isAtWork(): boolean {
    return this.#term !== null
  }

  begin(): void {
    if (!this.#isOver) this.#term ??= new Term(this.#job)
  }

  async end(): Promise<void> {
    this.#isOver = true
    await this.#term?.end(this.name)
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
