// Starts our start file as a child: role and secrets travel over a private inherited descriptor, never over
// environment or arguments, so that a grandchild is not taken for a worker.

import type { ChildProcess, SpawnOptions as NodeSpawnOptions, StdioOptions } from 'node:child_process'
import { existsSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Sys } from '../addon.ts'
import { SystemError } from '../errors.ts'
import { log } from '../log.ts'
import { BOOT_VARIABLE, CHANNEL_FD, CHANNEL_VARIABLE } from './boot.ts'
import { Channel } from './channel.ts'
import { type CommandError, spawnFailure } from './exit-codes.ts'
import { activatedDescriptors } from './master/activation.ts'
import type { Boot, FromChild, MasterBoot, ToChild } from './messages.ts'
import { childEnv, nodeFlags } from './node-flags.ts'
import { startFile } from './start-file.ts'

/** Inherited sockets follow the channel. */
export const FIRST_SOCKET_FD = 4

export interface Child {
  readonly process: ChildProcess
  readonly channel: Channel<FromChild, ToChild>
}

/** What a child runs: this Node and this start file, or those that are to take their place. */
export interface Program {
  /** A path. */
  readonly node: string
  readonly startFile: string
}

export interface SpawnOptions {
  /** Standard input, output and error. */
  readonly stdio: [StdioSource, StdioSource, StdioSource]
  /** Descriptors to pass, as 4, 5, ... */
  readonly fds?: readonly number[]
  /** A session of its own: no signal of a terminal reaches it. */
  readonly isDetached: boolean
  /** A group's own flags of Node. */
  readonly execArgv?: readonly string[]
  /** Where this child's inspector listens, when there is one. */
  readonly inspectorPort?: number | null
  readonly program?: Program
  /** A shell starts it, which `process` is then: when that is killed, the child is one of the service manager's (or of process 1). */
  readonly isForkedTwice?: boolean
}

/** Ends as what it has started. A shell gives what it leaves in the background no stdin by itself. */
const FORK_TWICE = ['-c', '"$@" <&0 & wait "$!"', 'sh']

export type StdioSource = 'ignore' | 'inherit' | 'pipe' | number

/** Spawns a child and tells it its role. A spawn that fails is an 'error' event of `process`. */
export function spawnChild(boot: Boot, options: SpawnOptions): Child {
  const { stdio, fds = [], isDetached, execArgv = [], inspectorPort = null, program = ownProgram() } = options
  const { isForkedTwice = false } = options
  const all: StdioOptions = [...stdio, 'pipe', ...fds]
  if (boot.role === 'worker') all.push('ipc') // see handle-channel.ts
  const env = { ...childEnv(boot.role), [CHANNEL_VARIABLE]: String(CHANNEL_FD) }
  const args = [...nodeFlags(boot.role, inspectorPort, execArgv), program.startFile, ...label(boot)]
  const [file, argv] = isForkedTwice ? ['/bin/sh', [...FORK_TWICE, program.node, ...args]] : [program.node, args]
  const start = () => trySpawn(file, argv, { stdio: all, env, detached: isDetached })
  const child = existsSync(program.startFile)
    ? start()
    : unstarted(new SystemError('ENOENT', 'open', program.startFile))
  const stream = child.stdio?.[CHANNEL_FD] ?? new Socket() // no stdio at all: EMFILE, of which 'error' will tell
  const channel = new Channel<FromChild, ToChild>(stream as Socket)
  channel.send({ type: 'boot', boot })
  return { process: child, channel }
}

/** This process ends here and goes on, with its pid, as what `boot` says. Throws a SystemError when it cannot. */
export function becomeMaster(boot: MasterBoot, sys: Sys): never {
  const env = { ...childEnv(boot.role), [BOOT_VARIABLE]: JSON.stringify(boot) }
  const args = [process.execPath, ...nodeFlags(boot.role, null, []), startFile(), ...label(boot)]
  return sys.execute(process.execPath, args, definedOnly(env), activatedDescriptors())
}

function definedOnly(env: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(
    Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  )
}

/** Some failures of `spawn` are events (EAGAIN, EMFILE), and others it throws (ENOMEM): here all are events. */
function trySpawn(node: string, args: readonly string[], options: NodeSpawnOptions): ChildProcess {
  try {
    return children().spawn(node, args, options)
  } catch (error) {
    return unstarted(error)
  }
}

function unstarted(error: unknown): ChildProcess {
  const { ChildProcess } = children()
  const failed = new ChildProcess()
  process.nextTick(() => failed.emit('error', error))
  return failed
}

/** Short commands have none, and do not load it. */
function children(): typeof import('node:child_process') {
  return process.getBuiltinModule('node:child_process')
}

/** What a process has printed and said before its end is read before the end is told, if it comes within this. */
const LAST_WORDS_MS = 50

/** Tells the end of a process, after its last words: a grandchild may hold its pipes open for longer than it lives. */
export function onceEnded(child: ChildProcess, tell: (code: number | null, signal: string | null) => void): void {
  child.once('exit', (code, signal) => {
    const end = () => {
      clearTimeout(late)
      child.off('close', end)
      tell(code, signal)
    }
    const late = setTimeout(end, LAST_WORDS_MS)
    child.once('close', end)
  })
}

/**
 * Tells that a process could not be started. Its 'error' event is of a signal, too, that this process may not send (EPERM, without
 * CAP_KILL): then it lives, and nobody is told.
 */
export function onceUnstarted(child: ChildProcess, tell: (error: CommandError) => void): void {
  child.on('error', (error) => {
    if (child.pid === undefined) tell(spawnFailure(error))
    else log(`process ${child.pid}: ${error.message}`)
  })
}

/** Arguments that nobody reads: for `ps`, and because a process title can be no longer than what was on the line. */
function label(boot: Boot): string[] {
  if (boot.role === 'master') return ['start', ...boot.options.modules]
  if (boot.role === 'keeper') return ['keeper']
  if (boot.role !== 'worker') return [boot.role, ...boot.modules]
  return ['worker', `${boot.group.name}:${boot.place.id}`, boot.group.listen, ...boot.modules]
}

export function ownProgram(): Program {
  return { node: process.execPath, startFile: startFile() }
}
