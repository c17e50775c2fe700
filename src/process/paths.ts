// What is on disk, for callers that need not know why something is missing.

import { readdirSync, realpathSync } from 'node:fs'

/** The names in a folder, or none. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return [] // ENOENT, EACCES
  }
}

/** The path with all links resolved; null if nothing is there. */
export function realPathOf(path: string): string | null {
  try {
    return realpathSync(path)
  } catch {
    return null // ENOENT, EACCES
  }
}

/** The same, or the path itself if nothing is there: `stop` works even if the file is gone. */
export function realPathOrSelf(path: string): string {
  return realPathOf(path) ?? path
}
