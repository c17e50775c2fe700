// The code that is on disk, evaluated for the master by processes that live for as long as that takes (describe.ts).

import type { Household } from '../master/household.ts'
import type { GroupState } from '../master/slot.ts'
import { realPathOf } from '../run-directory.ts'
import { type Described, describeModules } from './describe.ts'
import { type Comparison, compare, oldestStart } from './diff.ts'

export class Evaluation {
  /** Of the processes that evaluate it now. */
  readonly pids = new Set<number>()
  readonly #household: Household
  readonly #signal: AbortSignal
  readonly #onChange: () => void
  /** Where the modules led when the code that runs was evaluated. */
  #used: readonly string[] = []
  /** And when code was that is to run. */
  #coming: readonly string[] = []

  /**
   * @param signal ends what is under way
   * @param onChange is told when `pids` are others
   */
  constructor(household: Household, signal: AbortSignal, onChange: () => void) {
    this.#household = household
    this.#signal = signal
    this.#onChange = onChange
  }

  /** What is to run: `taken` says that it does. Rejects with a CommandError. */
  async forUse(): Promise<Described> {
    const coming = this.#household.options.modules.map(realPathOf)
    const described = await this.#describe()
    this.#coming = coming
    return described
  }

  taken(): void {
    this.#used = this.#coming
  }

  /** What runs with what the code wants. Rejects with a CommandError. */
  async compare(running: readonly GroupState[]): Promise<Comparison> {
    const { groups } = await this.#describe()
    const { modules } = this.#household.options
    const differences = compare(running, groups)
    return { differences, modules, evaluated: this.#used, oldestStart: oldestStart(running) }
  }

  async #describe(): Promise<Described> {
    const { options, output } = this.#household
    const { modules, argv, user = '', group = '', engine, isWatching } = options
    let describing = 0
    const onSpawn = (pid: number) => {
      describing = pid
      if (pid > 0) this.pids.add(pid)
      this.#onChange()
    }
    try {
      const settings = { modules, argv, user, group, engine }
      const described = await describeModules({ ...settings, signal: this.#signal, output, onSpawn })
      return isWatching ? hurried(described) : described
    } finally {
      this.pids.delete(describing)
    }
  }
}

/** Who waits for his change does not want to wait for a browser that keeps its connection: processes leave as at a stop. */
function hurried({ groups, settings, tlsFiles }: Described): Described {
  const hurry = (ms: number) => Math.min(ms, settings.stopTimeoutMs)
  const quick = groups.map((group) => ({ ...group, drainTimeoutMs: hurry(group.drainTimeoutMs) }))
  return { settings, tlsFiles, groups: quick }
}
