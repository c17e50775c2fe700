// Opens a file that a flag or the environment named. A server may be started by root, and the folder may be shared: a
// link planted there must not make root write to a file of somebody's choice.

import { constants, openSync } from 'node:fs'
import { codeOf, SystemError } from '../errors.ts'
import { CommandError, Exit } from './exit-codes.ts'

/** Opens for writing, creates, follows no link (O_NOFOLLOW); at the end of what is there, or over it. */
export function openFile(path: string, how: 'append' | 'replace', mode: number): number {
  const place = how === 'append' ? constants.O_APPEND : constants.O_TRUNC
  try {
    return openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW | place, mode)
  } catch (cause) {
    throw new CommandError(Exit.Failure, new SystemError(codeOf(cause), 'open', path).message, { cause })
  }
}
