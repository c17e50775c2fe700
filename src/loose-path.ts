// Whether others than root decide where a path leads. What root does below a folder that somebody else can change may
// happen anywhere: a folder is renamed, a link takes its place. (systemd calls that an unsafe path transition.)

import { lstatSync, readlinkSync, type Stats, statSync } from 'node:fs'
import { dirname, isAbsolute, join } from 'node:path'

const WRITABLE_BY_OTHERS = 0o022
/** In such a folder (/tmp) only root and the owner of an entry can rename or remove it. */
const STICKY = 0o1000
/** As the kernel has it: path_resolution(7). */
const MOST_LINKS = 40

/**
 * The first part of a path to a folder that others than root can exchange or fill; empty if there is none, and whatever
 * root makes in the folder stays what and where it is. Judged from / on, so each part is certain before the next is
 * looked up. An access list that lets others write shows in the bits of the group.
 */
export function loosePartOf(folder: string): string {
  const rest = partsOf(isAbsolute(folder) ? folder : `${process.cwd()}/${folder}`)
  let at = '/'
  for (let links = 0; links <= MOST_LINKS; ) {
    if (isLoose(at)) return at
    const target = targetOf(at)
    if (target !== null) {
      links++
      rest.unshift(...partsOf(target))
      at = isAbsolute(target) ? '/' : dirname(at)
      continue
    }
    const next = rest.shift()
    if (next === undefined) return ''
    at = join(at, next) // a '..' is that of the folder itself, since all links have been followed
  }
  return at
}

/** Whether others can make entries in a folder, which are then theirs. False if there is none. */
export function isShared(folder: string): boolean {
  return isWritableByOthers(statSync(folder, { throwIfNoEntry: false })?.mode ?? 0)
}

/** Whether others can put something in the place of this, or anything into it. Its own folder is not loose. */
function isLoose(path: string): boolean {
  const found = lookAt(path)
  if (found === null) return true
  if (found === undefined) return isShared(dirname(path)) // they might make it
  if (found.uid !== 0) return true
  return !found.isSymbolicLink() && isWritableByOthers(found.mode) && (found.mode & STICKY) === 0
}

function isWritableByOthers(mode: number): boolean {
  return (mode & WRITABLE_BY_OTHERS) !== 0
}

/** Undefined if nothing is there; null if root may not look: a network drive, somebody's FUSE. */
function lookAt(path: string): Stats | undefined | null {
  try {
    return lstatSync(path, { throwIfNoEntry: false })
  } catch {
    return null // EACCES; ENOTDIR, where nothing can be made
  }
}

/** Where a link leads; null for anything else. */
function targetOf(path: string): string | null {
  try {
    return readlinkSync(path)
  } catch {
    return null // EINVAL, ENOENT
  }
}

function partsOf(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.')
}
