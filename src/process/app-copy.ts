// Which copy of this package an application finds: npx or a global copy may start an app that has its own, and releases
// may each have a node_modules. Looked up anew each time and without Node's caches, since a link to the current release
// changes while a master lives.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { realPathOf, realPathOrSelf } from './paths.ts'

const NAME = 'millrace'

export interface Copy {
  readonly folder: string
  /** Its real path. */
  readonly startFile: string
  readonly version: string
}

/** The copy that a module's imports find, in Node's order. Null for none: it may import the package by a path. */
export function copyFor(module: string): Copy | null {
  const path = realPathOf(module)
  if (path === null) return null
  const folders = createRequire(path).resolve.paths(NAME) ?? []
  return copyAround(path) ?? firstOf(folders.map((folder) => copyAt(join(folder, NAME))))
}

function firstOf(copies: readonly (Copy | null)[]): Copy | null {
  return copies.find((copy) => copy !== null) ?? null
}

/** The copy that a file is part of, as it is now. A module inside of a copy finds that one by its own name. */
export function copyAround(path: string): Copy | null {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const about = packageAt(folder)
    if (about !== null) return about.name === NAME ? copyAt(folder) : null
    if (folder === dirname(folder)) return null
  }
}

function copyAt(folder: string): Copy | null {
  const about = packageAt(folder)
  if (about === null) return null
  const startFile = realPathOrSelf(join(realPathOrSelf(folder), 'dist/start.js'))
  return { folder, startFile, version: String(about.version) }
}

/** What the package.json of a folder says; null if there is none that can be read. */
function packageAt(folder: string): { readonly name?: unknown; readonly version?: unknown } | null {
  try {
    const about: unknown = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
    return typeof about === 'object' ? about : null
  } catch {
    return null // ENOENT, ENOTDIR, EACCES, or npm is about to write it
  }
}
