// What the tests of the tooling share: a project of a few files in a temporary directory, and commands run in it.

import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

/** The repository: tests run from its root. */
export const root = resolve('.')

export interface Outcome {
  code: number
  stdout: string
  stderr: string
}

/** Runs `use` in a temporary directory that holds these files, and takes the directory away again. */
export async function inProject(files: Record<string, string>, use: (directory: string) => unknown): Promise<void> {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), 'tooling-')))
  try {
    for (const [name, text] of Object.entries(files)) {
      const path = join(directory, name)
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, text)
    }
    await use(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Runs a command to its end, whatever that is; a command that hangs is killed after a minute. */
export function run(command: string, args: string[], cwd: string, more: Record<string, string> = {}): Promise<Outcome> {
  // What is planted is not our coverage, and a c8 inside c8 would clear the outer one's directory. The variable is set
  // to undefined: left out, Node puts it back.
  const env = { ...process.env, ...more, NODE_V8_COVERAGE: undefined }
  const options = { cwd, env, timeout: 60_000, killSignal: 'SIGKILL', maxBuffer: 1 << 24 } as const
  return new Promise((done) => {
    execFile(command, args, options, (error, stdout, stderr) => {
      done({ code: error ? (typeof error.code === 'number' ? error.code : -1) : 0, stdout, stderr })
    })
  })
}

export function node(args: string[], cwd: string): Promise<Outcome> {
  return run(process.execPath, args, cwd)
}

/** A module of scripts/, which is JavaScript and not built. */
export function script(name: string): Promise<unknown> {
  return import(pathToFileURL(join(root, 'scripts', name)).href)
}

/** What a fixture in a temporary directory imports in the place of 'uvu'. */
export const uvu: string = import.meta.resolve('uvu')
