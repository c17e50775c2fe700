// The code on disk, evaluated for the master by short-lived processes (describe.ts).

import type { Settings } from '../group.ts'
import type { GroupState } from '../master/group-state.ts'
import type { Household } from '../master/household.ts'
import { realPathOrSelf } from '../paths.ts'
import { type Described, describeModules } from './describe.ts'
import { type Comparison, compare, compareSettings, oldestStart } from './diff.ts'

export class Evaluation {
  /** Pids of the processes that are evaluating now. */
  readonly pids = new Set<number>()
  readonly #household: Household
  readonly #signal: AbortSignal
  readonly #onChange: () => void
  /** Real paths of the modules when the running code was evaluated. */
  #used: readonly string[] = []
  /** Real paths of the modules when the code that is about to run was evaluated. */
  #coming: readonly string[] = []

  /**
   * @param signal aborts evaluations in progress
   * @param onChange called when `pids` changes
   */
  constructor(household: Household, signal: AbortSignal, onChange: () => void) {
    this.#household = household
    this.#signal = signal
    this.#onChange = onChange
  }

  /** Evaluates code that is about to run; call `taken` once it does. Rejects with a CommandError. */
  async forUse(): Promise<Described> {
    const coming = this.#household.options.modules.map(realPathOrSelf)
    const described = await this.#describe()
    this.#coming = coming
    return described
  }

  /** Real paths of the modules whose code runs. */
  get used(): readonly string[] {
    return this.#used
  }

  taken(): void {
    this.#used = this.#coming
  }

  /** Whether the running code comes from this module: as named at the start, or by its real path then or now. */
  isOf(module: string): boolean {
    const { modules } = this.#household.options
    const real = realPathOrSelf(module)
    return modules.includes(module) || modules.map(realPathOrSelf).includes(real) || this.#used.includes(real)
  }

  /** Compares what runs with what the code declares. Rejects with a CommandError. */
  async compare(running: readonly GroupState[], settings: Settings): Promise<Comparison> {
    const described = await this.#describe()
    const { options } = this.#household
    const { modules } = options
    const ofServer = compareSettings(settings, described.settings, options)
    const differences = [...ofServer, ...compare(running, described.groups)]
    return { differences, modules, evaluated: this.#used, oldestStart: oldestStart(running) }
  }

  async #describe(): Promise<Described> {
    const { options, output, programs } = this.#household
    const { modules, argv, user = '', group = '', engine, isWatching } = options
    let describing = 0
    const onSpawn = (pid: number) => {
      describing = pid
      if (pid > 0) this.pids.add(pid)
      this.#onChange()
    }
    try {
      const settings = { modules, argv, user, group, engine }
      const program = programs.ofApp
      const described = await describeModules({ ...settings, signal: this.#signal, output, program, onSpawn })
      return isWatching ? hurried(described) : described
    } finally {
      this.pids.delete(describing)
    }
  }
}

/**
 * Shortens drains to the stop timeout: a developer who waits for a change should not wait for a browser's idle
 * connection.
 */
function hurried({ groups, settings, tlsFiles }: Described): Described {
  const hurry = (ms: number) => Math.min(ms, settings.stopTimeoutMs)
  const quick = groups.map((group) => ({ ...group, drainTimeoutMs: hurry(group.drainTimeoutMs) }))
  return { settings, tlsFiles, groups: quick }
}
