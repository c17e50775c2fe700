// What a command is: its help, the flags that it knows, and what it does.

import type { Exit } from '../exit-codes.ts'
import type { FlagName, Line } from './line.ts'

export interface Command {
  /** Behind its name in the help: `NAME N`. */
  readonly operands: string
  /** A line of the list of commands. */
  readonly summary: string
  /** More of it, for its own help; lines of up to 100 characters. */
  readonly details: string
  /** Those that it knows, besides the common ones. */
  readonly flags: readonly FlagName[]
  /** How many words it takes that are no files: names of groups, numbers. */
  readonly words: { readonly least: number; readonly most: number }
  /** Resolves with the exit code, rejects with a CommandError. */
  run(line: Line): Promise<Exit>
}

export const NO_WORDS = { least: 0, most: 0 }
export const ANY_WORDS = { least: 0, most: Number.POSITIVE_INFINITY }
