// Which copy of this package the processes of a server start with: the one that its app finds now, since all code in a
// process must use one copy, provided that it is of the master's version. For another version there is `upgrade`. The
// version is read anew each time: npm installs another one in the place of the copy that the master was started from.

import { existsSync } from 'node:fs'
import { codeOf } from '../../errors.ts'
import { version } from '../../version.ts'
import { type Copy, copyAround, copyFor } from '../app-copy.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { realPathOrSelf } from '../paths.ts'
import { ownProgram, type Program } from '../spawn.ts'

/** What a process runs and evaluates. */
export interface Code {
  readonly program: Program
  readonly modules: readonly string[]
}

const OTHER_VERSION = 'ERR_OTHER_VERSION'

export class Programs {
  readonly #module: string
  readonly #own = ownProgram()
  readonly #ownPath = realPathOrSelf(this.#own.startFile)
  /** False if the app imports the package by a path: whatever else it could find is not what it uses. */
  readonly #isFollowing: boolean

  constructor([module = '']: readonly string[]) {
    this.#module = module
    this.#isFollowing = this.#isOwn(copyFor(module))
  }

  /** For a process that evaluates the app's code. Throws a CommandError if the app's copy is of another version. */
  readonly ofApp = (): Program => {
    const theirs = this.#isFollowing ? copyFor(this.#module) : null
    const copy = theirs ?? copyAround(this.#ownPath)
    if (copy !== null && copy.version !== version)
      throw new CommandError(Exit.Module, `${mismatch(copy)}: use 'upgrade'`, {
        code: OTHER_VERSION,
        next: "'millrace upgrade' goes over to that version, and closes no port",
      })
    return theirs === null || this.#isOwn(theirs) ? this.#own : { ...this.#own, startFile: theirs.startFile }
  }

  /**
   * For a process that calls what the code says of this server: the app's code or, when that is for another version of
   * this package already, the code that runs, if it is still there. Throws a CommandError.
   * @param modules of the app
   * @param used real paths of the modules whose code runs
   */
  ofCallbacks(modules: readonly string[], used: readonly string[]): Code {
    try {
      return { program: this.ofApp(), modules }
    } catch (error) {
      if (codeOf(error) !== OTHER_VERSION) throw error
    }
    const [first = ''] = used
    const [now, copy] = [copyFor(this.#module) ?? copyAround(this.#ownPath), copyFor(first)]
    if (copy?.version === version && used.every((path) => existsSync(path)))
      return { program: { ...this.#own, startFile: copy.startFile }, modules: used }
    throw new CommandError(Exit.Module, `${mismatch(now)}, whose code is gone`, { code: OTHER_VERSION })
  }

  /**
   * For a process that does not. The master's copy may have been removed together with the release that it came in, or
   * replaced by another version.
   */
  readonly ofOurs = (): Program => (this.#isOwnThere ? this.#own : this.ofApp())

  get #isOwnThere(): boolean {
    return existsSync(this.#own.startFile) && (copyAround(this.#ownPath)?.version ?? version) === version
  }

  #isOwn(copy: Copy | null): boolean {
    return copy?.startFile === this.#ownPath
  }
}

function mismatch(copy: Copy | null): string {
  return `${copy?.folder} is version ${copy?.version}, and this server runs ${version}`
}
