// Opens a file that a flag or the environment named. A server may be started by root, and the folder may be shared: a
// link planted there must not make root write to a file of somebody's choice, nor a pipe without a reader make it wait.

import { constants, openSync } from 'node:fs'
import { codeOf, SystemError } from '../errors.ts'
import { CommandError, Exit } from './exit-codes.ts'

/** Opens for writing, creates, follows no link (O_NOFOLLOW); at the end of what is there, or over it. */
export function openFile(path: string, how: 'append' | 'replace', mode: number): number {
  const { O_WRONLY, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_APPEND, O_TRUNC } = constants
  const place = how === 'append' ? O_APPEND : O_TRUNC
  try {
    return openSync(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | place, mode)
  } catch (cause) {
    throw new CommandError(Exit.Failure, new SystemError(codeOf(cause), 'open', path).message, { cause })
  }
}
