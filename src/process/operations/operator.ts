// What can be asked of a running server: reload, and for single groups scale, stop, start, restart. Each waits for its
// turn, reports in events and log, and ends with an outcome; none rejects.

import { log } from '../../log.ts'
import { inSeconds } from '../../times.ts'
import type { Leave } from '../control/requests.ts'
import { asCommandError, CommandError, Exit } from '../exit-codes.ts'
import { extendWhile, monotonicUsec, tellService } from '../master/service.ts'
import type { Operation } from '../status/events.ts'
import { attempt, outcomeOf } from './attempt.ts'
import type { Described } from './describe.ts'
import { Operations } from './operations.ts'
import { isFresh, type ReloadOutcome } from './receipts.ts'
import { Regroup, type Scale } from './regroup.ts'
import { Reload } from './reload.ts'
import type { Supervisor } from './turnover.ts'

/** What an operator needs from its master. */
export interface Operated extends Supervisor {
  readonly isStopping: boolean
  /** Another master has taken over and does what is still to be done. */
  readonly isReplaced: boolean
  readonly stopTimeoutMs: number
  /** No process may take forever to start. */
  readonly startsInTime: boolean
  /** Resolves when the first start is over, or the server is stopping. */
  untilUp(): Promise<void>
  /**
   * Evaluates the code that is on disk now, and adopts its settings. Rejects with a CommandError, and with what `check`
   * throws before anything is done with the new code.
   */
  describeAnew(check: (described: Described) => void): Promise<Described>
  /** The new code runs now (`isDone`), or has been given up. Does not throw. */
  settleNewCode(isDone: boolean): void
}

/** The code of an outcome that has to be requested from another master. */
export const REPLACED = 'ERR_REPLACED'

export class Operator {
  readonly #master: Operated
  readonly #operations = new Operations()

  constructor(master: Operated) {
    this.#master = master
  }

  /**
   * Equal requests share one that still waits: it sees the newest code. No names: all groups.
   * @param canaryMs how long one process of each group is watched first; 0 for no canary
   */
  reload(names: readonly string[], canaryMs = 0): Promise<ReloadOutcome> {
    const reload = () => new Reload(this.#master, 'reload', names, canaryMs)
    return this.#operations.run(`reload ${JSON.stringify([names, canaryMs])}`, () => {
      return this.#operate('reload', names, reload(), (work) => this.#withNewCode(work))
    })
  }

  restart(names: readonly string[], leave: Leave): Promise<ReloadOutcome> {
    return this.#regroup('restart', names, async (regroup) => {
      regroup.useWindow(leave, this.#master.stopTimeoutMs)
      await this.#withNewCode(regroup)
    })
  }

  start(names: readonly string[]): Promise<ReloadOutcome> {
    return this.#regroup('start', names, async (regroup) => {
      const running = regroup.groups.find(({ isStopped }) => !isStopped)
      if (running !== undefined)
        throw new CommandError(Exit.AlreadyRunning, `${running.name} is running`, {
          next: `'millrace reload ${running.name}' for new code, 'millrace restart ${running.name}' for new processes`,
        })
      await this.#withNewCode(regroup)
    })
  }

  /** A second stop can shorten the first. */
  stop(names: readonly string[], leave: Leave): Promise<ReloadOutcome> {
    const regroup = new Regroup(this.#master, 'stop', names)
    regroup.useWindow(leave, this.#master.stopTimeoutMs)
    regroup.hurry()
    return this.#regroup('stop', names, async (work) => {
      work.useWindow(leave, this.#master.stopTimeoutMs)
      await work.stop()
    })
  }

  scale(name: string, scale: Scale): Promise<ReloadOutcome> {
    return this.#regroup('scale', [name], (regroup) => regroup.scale(scale))
  }

  /** Runs `work` when no operation is in progress; none begins before it has settled. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    return this.#operations.run(null, async () => {
      await this.#master.untilUp()
      return work()
    })
  }

  /** Resolves when no operation is in progress or queued. */
  idle(): Promise<void> {
    return this.#operations.idle()
  }

  #regroup(
    operation: Operation,
    names: readonly string[],
    work: (regroup: Regroup) => Promise<void>,
  ): Promise<ReloadOutcome> {
    return this.#operations.run(null, async () => {
      await this.#master.untilUp()
      const regroup = new Regroup(this.#master, operation, names)
      const { isReplaced, isStopping } = this.#master
      const unknown = isReplaced || isStopping ? null : regroup.unknown // else the groups may be another master's by now
      // Check before anything announces the operation.
      return unknown === null
        ? this.#operate(operation, names, regroup, work)
        : outcomeOf({ failure: unknown, durationMs: 0 }, [], [])
    })
  }

  async #operate<W extends Reload>(
    operation: Operation,
    names: readonly string[],
    work: W,
    run: (work: W) => Promise<void>,
  ): Promise<ReloadOutcome> {
    const master = this.#master
    await master.untilUp() // requests made during a start wait for its end
    const blame = (error: unknown) =>
      master.isStopping && !master.isReplaced
        ? new CommandError(Exit.Failure, 'the server was stopped')
        : asCommandError(error)
    const attempted = await attempt(master.events, operation, names, () => this.#permitted(() => run(work)), blame)
    const outcome = outcomeOf(attempted, work.receipts, work.canaries)
    log(`${[operation, ...names].join(' ')}: ${lineOf(operation, outcome)}`)
    return outcome
  }

  #permitted(run: () => Promise<void>): Promise<void> {
    const { isReplaced, isStopping } = this.#master
    if (isReplaced) throw new CommandError(Exit.Failure, 'another master has taken over', { code: REPLACED })
    if (isStopping) throw new CommandError(Exit.Failure, 'the server is being stopped')
    return run()
  }

  async #withNewCode(work: Reload): Promise<void> {
    log('reload: checking the new code')
    tellService('RELOADING=1', monotonicUsec())
    const stopExtending = extendWhile(() => this.#master.startsInTime && !this.#master.isStopping)
    try {
      await work.run(await this.#master.describeAnew((described) => work.check(described)))
    } finally {
      stopExtending()
      this.#master.settleNewCode(work.isComplete)
      if (!this.#master.isStopping) tellService('READY=1')
    }
  }
}

function lineOf(operation: Operation, { reason, durationMs, slots }: ReloadOutcome): string {
  if (reason !== '' && operation === 'scale') return `given up: ${reason}` // all of it is taken back
  const fresh = slots.filter(isFresh).length
  const gone = slots.filter(({ result }) => result === 'removed' || result === 'stopped').length
  if (reason !== '')
    return `given up${fresh === 0 ? '' : `, processes that already run the new code: ${fresh}`}: ${reason}`
  return `done in ${inSeconds(durationMs)}, new processes: ${fresh}${gone === 0 ? '' : `, ended: ${gone}`}`
}
