// What is on disk, for callers that need not know why something is missing.

import { readdirSync, realpathSync, type Stats, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { relative, resolve } from 'node:path'

/** The names in a folder, or none. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return [] // ENOENT, EACCES
  }
}

/** Of the file that the path leads to; undefined if there is none, or it cannot be reached. */
export function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false })
  } catch {
    return undefined // EACCES, ELOOP, ENOTDIR
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

/** Where this process runs; empty if that folder was deleted since. */
export function workingFolder(): string {
  try {
    return process.cwd()
  } catch {
    return '' // ENOENT
  }
}

/** An absolute path as a person in this folder would type it; unchanged if the folder was deleted since. */
export function fromHere(path: string): string {
  try {
    const short = relative(process.cwd(), path)
    return short.startsWith('..') ? path : short
  } catch {
    return path // ENOENT
  }
}

/** What `node app` may add to find a program. */
const EXTENSIONS = ['', '.js']

/**
 * The file that `node path` runs: an extension may be missing, and a folder stands for the `main` of its package.json
 * or its index.js. Absolute, with links as typed, since their targets may change. Null if there is none.
 */
export function runnableAt(path: string): string | null {
  if (path === '') return null
  try {
    const found = realpathSync(createRequire(import.meta.url).resolve(resolve(path)))
    const typed = EXTENSIONS.map((extension) => resolve(path + extension)).find((file) => realPathOf(file) === found)
    return typed ?? resolve(path, relative(realpathSync(path), found))
  } catch {
    return null // MODULE_NOT_FOUND, or no right to look
  }
}
