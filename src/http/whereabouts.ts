// Where a file is that has been opened. Its path is no proof: who may write in a folder can exchange a part of the path
// for a link between any two calls that are given it, but cannot change what a descriptor refers to.

import { readlinkSync } from 'node:fs'
import { type FileHandle, realpath, stat } from 'node:fs/promises'
import { sep } from 'node:path'
import { isNoFile } from '../errors.ts'

/** Whether a resolved path is this resolved folder or below it. */
export function isBelow(folder: string, path: string): boolean {
  return path === folder || path.startsWith(folder.endsWith(sep) ? folder : folder + sep)
}

/** Whether `file`, opened at the resolved path `path`, is in the resolved folder, whatever the path leads to now. */
export async function isOpenBelow(folder: string, file: FileHandle, path: string): Promise<boolean> {
  const place = placeOf(file)
  return place === null ? stillLeadsTo(file, path) : isBelow(folder, place)
}

/**
 * Null where the kernel does not tell (proc(5)). Synchronous, since it reads memory and no disk: a turn in the thread
 * pool would cost more. The place of a file that was removed or replaced meanwhile is where it was.
 */
function placeOf(file: FileHandle): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${file.fd}`)
  } catch (error) {
    if (isNoFile(error)) return null
    throw error
  }
}

/**
 * Elsewhere the path is looked at again, and must lead to the same file without a link: the exchange would have to be
 * undone and repeated between these calls. Node has none that would exclude that.
 */
async function stillLeadsTo(file: FileHandle, path: string): Promise<boolean> {
  try {
    const [open, named] = [await file.stat(), await stat(path)]
    return (await realpath(path)) === path && open.ino === named.ino && open.dev === named.dev
  } catch (error) {
    if (isNoFile(error)) return false
    throw error
  }
}
