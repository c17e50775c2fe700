// The master's answers to commands: at once for what it knows, and after completion for operations.

import { loadavg } from 'node:os'
import { addon } from '../../addon.ts'
import type { Counters } from '../../counters.ts'
import { messageOf } from '../../errors.ts'
import { now } from '../../loop/clock.ts'
import { version } from '../../version.ts'
import { type Answer, type Leave, OTHER_MODULE, type Request, type Running } from '../control/requests.ts'
import { Exit } from '../exit-codes.ts'
import { LONGEST_TIMEOUT_MS } from '../group.ts'
import { ownIdentity } from '../identity.ts'
import { nodeSettings } from '../node-flags.ts'
import type { Comparison } from '../operations/diff.ts'
import { type Operator, REPLACED } from '../operations/operator.ts'
import type { ReloadOutcome } from '../operations/receipts.ts'
import { workingFolder } from '../paths.ts'
import type { Program } from '../spawn.ts'
import { connectionPage, engineOf, type GroupStatus, groupStatus, pollAll, type Status } from '../status/status.ts'
import type { UpgradeOutcome } from '../upgrade/upgrade.ts'
import type { GroupState } from './group-state.ts'
import type { Household } from './household.ts'
import type { Leaders } from './leaders.ts'

/** What Answers needs from its master. */
export interface Commanded {
  readonly groups: readonly GroupState[]
  readonly leaders: Leaders
  readonly operator: Operator
  readonly state: Status['state']
  /** Where probes are answered; empty: nowhere. */
  readonly healthAddress: string
  /** Another master leads, and answers. */
  readonly isReplaced: boolean
  /** Whether this master leads. During a hand-over this is known only a little later. */
  decided(): Promise<boolean>
  /** How long a stop may take. */
  readonly stopWindowMs: number
  stop(isGraceful: boolean, timeoutMs: number | null): void
  /** Null if another master has taken over meanwhile. */
  upgrade(program: Program): Promise<UpgradeOutcome | null>
  /** Whether it runs this module. */
  isOf(module: string): boolean
  /** Compares what runs with what the code on disk wants. */
  compare(): Promise<Comparison>
  totalsOf(groups: readonly GroupStatus[]): Counters
}

/** Read-only commands: a master answers these even before it is known whether it leads. */
const LOOKS: ReadonlySet<string> = new Set(['status', 'ping', 'connections', 'events', 'diff'])

export class Answers {
  readonly #master: Commanded
  readonly #household: Household
  /** For display only. Durations are measured from `#startedNow`, on a clock that cannot be set. */
  readonly #startedAt = new Date()
  readonly #startedNow = now()

  constructor(master: Commanded, household: Household) {
    this.#master = master
    this.#household = household
  }

  async to(request: Request): Promise<Answer> {
    const { command, module } = request
    const master = this.#master
    if (typeof module === 'string' && !master.isOf(module)) return otherModule(this.#household, module)
    const isOurs = LOOKS.has(command) || (await master.decided())
    if (!isOurs || master.isReplaced) return this.#household.ask(request)
    switch (command) {
      case 'ping':
        return { ...this.#done(), running: this.#running }
      case 'events':
        return this.#done()
      case 'status':
        return { ...this.#done(), status: await this.#status() }
      case 'connections':
        return { ...this.#done(), page: await connectionPage(master.groups, request.cursor ?? { pid: 0, after: 0 }) }
      case 'diff':
        return this.#diff(request)
      case 'upgrade': {
        const upgrade = await master.upgrade(request)
        return upgrade === null ? this.#household.ask(request) : { ...this.#done(), upgrade }
      }
      default:
        return this.#afterOperation(request)
    }
  }

  async #diff(request: Request): Promise<Answer> {
    try {
      return { ...this.#done(), comparison: await this.#master.compare() }
    } catch (error) {
      if (!this.#master.isReplaced) throw error
      return this.#household.ask(request) // this master is ending, and so did the evaluation
    }
  }

  async #afterOperation(request: Request): Promise<Answer> {
    const { command } = request
    const names = namesOf(request)
    if (command === 'stop' && names.length === 0) {
      this.#master.stop(request.isGraceful === true, timeoutOf(request)) // the client waits for this process to end
      return this.#done()
    }
    const operation = this.#operate(request, names)
    if (operation === null) return { ok: false, message: `unknown command ${JSON.stringify(request)}` }
    const outcome = this.orPassed(operation, request)
    return command === 'reload' && request.isWaiting === false
      ? this.#done()
      : { ...this.#done(), outcome: await outcome }
  }

  /** An operation that waited for its turn while another master took over is passed on to that master. */
  async orPassed(operation: Promise<ReloadOutcome>, request: Request): Promise<ReloadOutcome> {
    const outcome = await operation
    if (outcome.code !== REPLACED) return outcome
    const answer = await this.#household
      .ask(request)
      .catch((error) => ({ ok: false, message: messageOf(error) }) as const)
    if (!answer.ok) return { ...outcome, reason: answer.message }
    return answer.outcome ?? { ...outcome, exitCode: Exit.Ok, reason: '' } // the request asked not to wait
  }

  /** Null if the request is not an operation. */
  #operate(request: Request, names: readonly string[]): Promise<ReloadOutcome> | null {
    const { command } = request
    const { operator } = this.#master
    if (command === 'reload') return operator.reload(names, Number(request.canaryMs) || 0)
    if (command === 'scale') return operator.scale(String(request.name), request.scale)
    if (names.length === 0) return null // the client stops and starts the whole server itself
    if (command === 'start') return operator.start(names)
    if (command !== 'stop' && command !== 'restart') return null
    const leave = { isGraceful: request.isGraceful === true, timeoutMs: timeoutOf(request) }
    return operator[command](names, leave)
  }

  get #running(): Running {
    const { groups: all, healthAddress: health } = this.#master
    const groups = all.flatMap(({ blueprint: { key } }) => [key.name, key.listen])
    const endpoints = [...new Set(all.flatMap(({ sockets }) => sockets.map(({ endpoint }) => endpoint)))]
    const [uid, node, folder] = [process.getuid?.() ?? 0, nodeSettings(), workingFolder()]
    return { options: this.#household.options, uid, groups, endpoints, health, node, folder }
  }

  #done() {
    const { stopWindowMs: stopTimeoutMs } = this.#master
    const { isDaemon, output } = this.#household
    return { ok: true, ...ownIdentity(), stopTimeoutMs, isDaemon, logFile: output?.logPath ?? '' } as const
  }

  async #status(): Promise<Status> {
    const silent = await pollAll(this.#master.groups)
    const { groups: all, leaders, state } = this.#master
    const groups = all.map((group) => groupStatus(group, silent))
    const engine = engineOf(all.map(({ blueprint }) => blueprint.declaration))
    return {
      version,
      node: process.versions.node,
      pid: process.pid,
      startedAt: this.#startedAt.toISOString(),
      uptimeMs: Math.round(now() - this.#startedNow),
      isDaemon: this.#household.isDaemon,
      state,
      runDir: this.#household.runDir,
      engine: engine.name,
      engineWhy: engine.why,
      addon: addon().why,
      loadAverage: loadavg(),
      groups,
      leaders: leaders.list(),
      totals: this.#master.totalsOf(groups),
    }
  }
}

/** With a `--run-dir` the command finds whatever server has that folder: it may be about another one. */
function otherModule({ runDir, options }: Household, module: string): Answer {
  return {
    ...{ ok: false, exitCode: Exit.Usage, code: OTHER_MODULE },
    message: `the server in ${runDir}, pid ${process.pid}, runs ${options.modules.join(' ')}, not ${module}`,
    next: 'name what it runs, or no file; or the run directory of the other server',
  }
}

/** The names in a request; client input is not trusted. */
function namesOf(request: { readonly names?: readonly string[] } | Request): readonly string[] {
  const { names } = request as { readonly names?: unknown }
  return Array.isArray(names) ? names.map(String) : []
}

function timeoutOf({ timeoutMs }: Leave): number | null {
  return typeof timeoutMs === 'number' && timeoutMs >= 0 ? Math.min(timeoutMs, LONGEST_TIMEOUT_MS) : null
}
