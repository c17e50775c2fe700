// What is on disk, for who need not know why something is not.

import { readdirSync, realpathSync } from 'node:fs'

/** The names in a folder, or none. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return [] // ENOENT, EACCES
  }
}

/** Where links lead; null when there is nothing. */
export function realPathOf(path: string): string | null {
  try {
    return realpathSync(path)
  } catch {
    return null // ENOENT, EACCES
  }
}

/** The same; the path itself when there is nothing: `stop` works when the file is gone. */
export function realPathOrSelf(path: string): string {
  return realPathOf(path) ?? path
}
