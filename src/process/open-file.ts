// Opens files named by a flag or the environment, and files in our own folders. Root may start the server and the
// folder may be shared: a symbolic link planted there must not make root write to an arbitrary file, nor a pipe without
// a reader block it.

import { closeSync, constants, existsSync, fstatSync, openSync, readSync, rmSync } from 'node:fs'
import { codeOf, SystemError } from '../errors.ts'
import { CommandError, Exit } from './exit-codes.ts'

/** Opens for writing and creates the file if needed; follows no symbolic link (O_NOFOLLOW). Appends or truncates. */
export function openFile(path: string, how: 'append' | 'replace', mode: number): number {
  const { O_WRONLY, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_APPEND, O_TRUNC } = constants
  const place = how === 'append' ? O_APPEND : O_TRUNC
  try {
    return openSync(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | place, mode)
  } catch (cause) {
    throw fileError(cause, 'open', path)
  }
}

/** Throws the error of `openFile` if the file could not be opened for writing. Leaves no file that was not there. */
export function checkFile(path: string, mode: number): void {
  const wasThere = existsSync(path)
  closeSync(openFile(path, 'append', mode))
  if (!wasThere) rmSync(path, { force: true })
}

/** The error for the person who named the file or its folder. */
export function fileError(cause: unknown, syscall: 'open' | 'write', path: string): CommandError {
  const code = codeOf(cause)
  const isFull = code === 'ENOSPC' || code === 'EDQUOT'
  const next = isFull
    ? 'make room on that disk, or choose another place'
    : `it has to be a plain file that this user may write: look at what is there (ls -ld ${path}), or name another one`
  return new CommandError(Exit.Failure, new SystemError(code, syscall, path).message, { cause, next })
}

/** Limit of a short file. */
const MOST_BYTES = 1_048_576

/**
 * Reads a short text file. Throws the errors of open(2), and EINVAL if it is not a file: a pipe could block forever.
 */
export function readShortFile(path: string): string {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants
  const fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  try {
    const stat = fstatSync(fd)
    if (!stat.isFile() || stat.size > MOST_BYTES) throw new SystemError('EINVAL', 'read', path)
    const bytes = Buffer.alloc(stat.size)
    return bytes.toString('utf8', 0, readSync(fd, bytes, 0, bytes.length, 0))
  } finally {
    closeSync(fd)
  }
}
