// The interface of a command: its help, its flags, and what it does.

import type { Exit } from '../exit-codes.ts'
import type { FlagName, Line } from './line.ts'

export interface Command {
  /** Shown after its name in the help: `NAME N`. */
  readonly operands: string
  /** Its line in the list of commands. */
  readonly summary: string
  /** Details for its own help, in lines of up to 100 characters. */
  readonly details: string
  /** The flags it accepts, in addition to the common ones. */
  readonly flags: readonly FlagName[]
  /** It may name several modules: it evaluates them. All others name at most the one that identifies the server. */
  readonly hasModules?: true
  /** How many words it takes that are not files: names of groups, numbers. */
  readonly words: { readonly least: number; readonly most: number }
  /** Resolves with the exit code, rejects with a CommandError. */
  run(line: Line): Promise<Exit>
}

export const NO_WORDS = { least: 0, most: 0 }
export const ANY_WORDS = { least: 0, most: Number.POSITIVE_INFINITY }
