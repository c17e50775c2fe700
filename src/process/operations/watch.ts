// `start --watch`, for development: a change of code below the modules' folders triggers a real reload, so code that
// does not come up leaves the old one serving. Watches folders one by one. Editors that save by renaming put another
// file under the name, so watching files does not work; `fs.watch(recursive)` uses the same inotify watches on Linux,
// loses folders that were just created, and throws for files that were just deleted (nodejs/node#48437, #52018).

import { type FSWatcher, watch } from 'node:fs'
import { basename, dirname, join, sep } from 'node:path'
import { codeOf, messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { fileId } from '../../net/bound-socket.ts'
import { fromHere, namesIn, realPathOf, realPathOrSelf, statOf } from '../paths.ts'
import { isCode, isSkipped } from './diff.ts'

/** A change is complete after this much quiet: a save is several events, a checkout or a build thousands. */
const QUIET_MS = 100
/** A change that does not end is acted on after this time. */
const LONGEST_CHANGE_MS = 2000

export interface WatchOptions {
  /** Absolute paths: their folders are watched, with everything below. */
  readonly modules: readonly string[]
  /** Our own folders. */
  readonly ignored: readonly string[]
  /** Resolves to the reason why the old code goes on, or to an empty string. */
  readonly reload: () => Promise<string>
}

/** Watches until the returned function is called. */
export function watchModules({ modules, ignored, reload }: WatchOptions): () => void {
  const changes = new Changes(async (path, more) => {
    const others = more === 0 ? '' : ` and ${more} more`
    log(`watch: ${fromHere(path)}${others} changed`)
    const reason = await reload()
    if (reason !== '') log('watch: the old code goes on serving until the next change')
  })
  const tree = new FolderTree(ignored, (path) => changes.note(path))
  for (const folder of new Set(modules.map(dirname))) tree.addRoot(folder)
  log(`watch: ${tree.size} ${tree.size === 1 ? 'folder' : 'folders'}`)
  return () => {
    tree.close()
    changes.close()
  }
}

/** Combines changed paths into one call; those that change during a call are combined into one after it. */
class Changes {
  readonly #paths = new Set<string>()
  readonly #take: (path: string, more: number) => Promise<void>
  #timer: NodeJS.Timeout | undefined
  #since = 0
  #isTaking = false
  #isClosed = false

  constructor(take: (path: string, more: number) => Promise<void>) {
    this.#take = take
  }

  note(path: string): void {
    if (this.#paths.size === 0) this.#since = now()
    this.#paths.add(path)
    this.#wait()
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
  }

  #wait(): void {
    if (this.#isTaking || this.#isClosed) return
    clearTimeout(this.#timer)
    const leftMs = Math.max(0, this.#since + LONGEST_CHANGE_MS - now())
    this.#timer = setTimeout(() => void this.#run(), Math.min(QUIET_MS, leftMs)).unref()
  }

  async #run(): Promise<void> {
    const [first = ''] = this.#paths
    const more = this.#paths.size - 1
    this.#paths.clear()
    this.#isTaking = true
    try {
      await this.#take(first, more)
    } finally {
      this.#isTaking = false
      if (this.#paths.size > 0) this.#wait()
    }
  }
}

interface Folder {
  readonly watcher: FSWatcher
  /** Identifies the folder: one that was deleted and created again may have the same inode. */
  readonly id: string
  /** Only these names in it count; null: all code, and folders with code. */
  names: Set<string> | null
}

/**
 * Folders and everything below them, except `node_modules` and hidden ones. Links are followed; each place is watched
 * once.
 */
class FolderTree {
  readonly #folders = new Map<string, Folder>()
  readonly #ignored: readonly string[]
  readonly #changed: (path: string) => void
  #hasComplained = false

  constructor(ignored: readonly string[], changed: (path: string) => void) {
    this.#ignored = ignored
    this.#changed = changed
  }

  get size(): number {
    return [...this.#folders.values()].filter(({ names }) => names === null).length
  }

  /** A build may delete the folder and create it again, so its own name is watched, too. */
  addRoot(folder: string): void {
    this.#add(folder)
    this.#addNames(realPathOrSelf(folder))
  }

  close(): void {
    for (const { watcher } of this.#folders.values()) watcher.close()
    this.#folders.clear()
  }

  /**
   * Returns whether there is code in it or below. Watches first and reads then, so nothing created in between is
   * missed.
   */
  #add(path: string): boolean {
    const real = realPathOf(path)
    if (real === null || this.#isIgnored(real) || this.#folders.get(real)?.names === null) return false
    if (!this.#open(real, null)) return false
    let hasCode = false
    for (const name of namesIn(real)) {
      if (isSkipped(name)) continue
      const entry = join(real, name)
      if (statOf(entry)?.isDirectory()) hasCode = this.#add(entry) || hasCode
      else if (isCode(name)) hasCode = this.#addFile(entry)
    }
    return hasCode
  }

  /** A link's target changes somewhere else, so it is watched there. */
  #addFile(path: string): true {
    const real = realPathOf(path)
    if (real !== null && real !== path) this.#addNames(real)
    return true
  }

  #addNames(path: string): void {
    const folder = dirname(path)
    const present = this.#folders.get(folder)
    if (present === undefined) this.#open(folder, new Set([basename(path)]))
    else present.names?.add(basename(path))
  }

  #open(path: string, names: Set<string> | null): boolean {
    const before = this.#folders.get(path)
    before?.watcher.close()
    this.#folders.delete(path)
    try {
      const watcher = watch(path, { persistent: false }, (_event, name) => this.#heard(path, name))
      watcher.on('error', () => this.#drop(path)) // EPERM: deleted, on some systems
      this.#folders.set(path, { watcher, id: fileId(path), names })
      return true
    } catch (error) {
      this.#complain(path, error)
      return false
    }
  }

  /** Something has happened to `name` in a folder. */
  #heard(folder: string, name: string | null): void {
    const { names = null } = this.#folders.get(folder) ?? {}
    if (name === null || (names === null ? isSkipped(name) : !names.has(name))) return
    const path = join(folder, name)
    const stat = statOf(path)
    const known = this.#folders.get(path)
    if (known?.names === null && known.id !== idOf(path)) {
      this.#drop(path)
      this.#changed(path)
    }
    if (stat?.isDirectory()) {
      if (this.#add(path)) this.#changed(path)
    } else if (isCode(name)) {
      this.#addFile(path)
      this.#changed(path)
    }
  }

  #drop(path: string): void {
    for (const [one, { watcher, names }] of this.#folders) {
      if (names !== null || (one !== path && !one.startsWith(path + sep))) continue
      watcher.close()
      this.#folders.delete(one)
    }
  }

  #isIgnored(path: string): boolean {
    const isModules = path.split(sep).includes('node_modules') && this.#folders.size > 0 // a link that leads there
    return isModules || this.#ignored.some((one) => path === one || path.startsWith(one + sep))
  }

  #complain(path: string, error: unknown): void {
    if (this.#hasComplained || codeOf(error) === 'ENOENT') return // gone already
    this.#hasComplained = true
    const isFull = codeOf(error) === 'ENOSPC' || codeOf(error) === 'EMFILE'
    const advice = isFull ? '; raise fs.inotify.max_user_watches and max_user_instances (sysctl)' : ''
    log(`watch: changes in ${path}, and perhaps in others, are not seen: ${messageOf(error)}${advice}`)
  }
}

/** Empty for what is gone, or cannot be reached any more: another folder or a file may be where its own one was. */
function idOf(path: string): string {
  try {
    return fileId(path)
  } catch {
    return '' // ENOTDIR, EACCES, ELOOP
  }
}
