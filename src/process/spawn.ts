// Starts our start file as a child. Role and secrets travel over a private inherited descriptor, never in environment
// or arguments, so that a grandchild is not mistaken for a worker.

import type { ChildProcess, StdioOptions } from 'node:child_process'
import { existsSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Sys } from '../addon-types.ts'
import { SystemError } from '../errors.ts'
import { log } from '../log.ts'
import { BOOT_VARIABLE, CHANNEL_FD, CHANNEL_VARIABLE } from './boot.ts'
import { Channel } from './channel.ts'
import { type CommandError, spawnFailure } from './exit-codes.ts'
import { spawnWithHandleChannel } from './handle-channel.ts'
import { activatedDescriptors } from './master/activation.ts'
import type { Boot, FromChild, MasterBoot, ToChild } from './messages.ts'
import { childEnv, nodeFlags } from './node-flags.ts'
import { startFile } from './start-file.ts'

/** Inherited sockets come after the channel. */
export const FIRST_SOCKET_FD = 4

export interface Child {
  readonly process: ChildProcess
  readonly channel: Channel<FromChild, ToChild>
  /** It has said something on the channel for handles that nothing of ours says. */
  onNonsense: ((why: string) => void) | null
}

/** What a child runs: this Node and this start file, or their replacements in an upgrade. */
export interface Program {
  /** Path of the Node binary. */
  readonly node: string
  readonly startFile: string
}

interface SpawnOptions {
  /** Standard input, output and error. */
  readonly stdio: [StdioSource, StdioSource, StdioSource]
  /** Descriptors to pass, as 4, 5, ... */
  readonly fds?: readonly number[]
  /** Runs in its own session, so that signals from a terminal do not reach it. */
  readonly isDetached: boolean
  /** The group's own Node flags. */
  readonly execArgv?: readonly string[]
  /** Where this child's inspector listens, if it has one. */
  readonly inspectorPort?: number | null
  /** Called when the child is started; by default what this process runs. May throw a CommandError. */
  readonly program?: () => Program
  /**
   * A shell starts the child, and `process` is that shell. When the shell is killed, the child is adopted by the
   * service manager or by process 1.
   */
  readonly isForkedTwice?: boolean
  /** The longest line that it may send, in bytes. */
  readonly maxBytes?: number | undefined
}

/** Exits as its child does. `<&0`, because a shell gives background commands no stdin otherwise. */
const FORK_TWICE = ['-c', '"$@" <&0 & wait "$!"', 'sh']

export type StdioSource = 'ignore' | 'inherit' | 'pipe' | number

/** Spawns a child and sends it its role. A failed spawn is an 'error' event of `process`. */
export function spawnChild(boot: Boot, options: SpawnOptions): Child {
  const { stdio, fds = [], isDetached, execArgv = [], inspectorPort = null, program = ownProgram } = options
  const { isForkedTwice = false, maxBytes } = options
  const all: StdioOptions = [...stdio, 'pipe', ...fds]
  if (boot.role === 'worker') all.push('ipc') // see handle-channel.ts
  const env = { ...childEnv(boot.role), [CHANNEL_VARIABLE]: String(CHANNEL_FD) }
  const flags = nodeFlags(boot.role, inspectorPort, execArgv)
  const start = () => {
    const { node, startFile } = program()
    if (!existsSync(startFile)) throw new SystemError('ENOENT', 'open', startFile)
    const args = [...flags, startFile, ...label(boot)]
    const [file, argv] = isForkedTwice ? ['/bin/sh', [...FORK_TWICE, node, ...args]] : [node, args]
    return children().spawn(file, argv, { stdio: all, env, detached: isDetached })
  }
  const refuse = (why: string) => started.onNonsense?.(why)
  const child = trySpawn(boot.role === 'worker' ? () => spawnWithHandleChannel(start, refuse) : start)
  const stream = child.stdio?.[CHANNEL_FD] ?? new Socket() // no stdio: EMFILE, which 'error' reports
  const channel = new Channel<FromChild, ToChild>(stream as Socket, maxBytes)
  channel.send({ type: 'boot', boot })
  const started: Child = { process: child, channel, onNonsense: null }
  return started
}

/** Replaces this process, keeping its pid, by the master that `boot` describes. Throws a SystemError if it cannot. */
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

/** `spawn` reports some failures as events (EAGAIN, EMFILE) and throws others (ENOMEM). Here all are events. */
function trySpawn(spawn: () => ChildProcess): ChildProcess {
  try {
    return spawn()
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

/** Loaded on demand, since short commands need no children. */
function children(): typeof import('node:child_process') {
  return process.getBuiltinModule('node:child_process')
}

/** How long the end of a process is held back while its remaining output and messages are read. */
const LAST_WORDS_MS = 50

/**
 * Reports the end of a process after its last output. 'close' alone may come late: a grandchild may keep the pipes
 * open.
 */
export function onceEnded(child: ChildProcess, tell: (code: number | null, signal: string | null) => void): void {
  child.once('exit', (code, signal) => {
    let isTold = false
    const end = () => {
      clearTimeout(late)
      if (!isTold) tell(code, signal)
      isTold = true
    }
    // If this process was busy for longer, the last words wait to be read: that comes before an immediate.
    const late = setTimeout(() => setImmediate(end), LAST_WORDS_MS)
    child.once('close', end)
  })
}

/**
 * Reports that a process could not be started. An 'error' event also occurs when a signal cannot be sent (EPERM,
 * without CAP_KILL); the process lives then, so that is only logged.
 */
export function onceUnstarted(child: ChildProcess, tell: (error: CommandError) => void): void {
  child.on('error', (error) => {
    if (child.pid === undefined) tell(spawnFailure(error))
    else log(`process ${child.pid}: ${error.message}`)
  })
}

/**
 * Arguments that no code reads: for `ps`, and because a process title cannot be longer than the original command line.
 */
function label(boot: Boot): string[] {
  if (boot.role === 'master') return ['start', ...boot.options.modules]
  if (boot.role === 'keeper') return ['keeper']
  if (boot.role !== 'worker') return [boot.role, ...boot.modules]
  return ['worker', `${boot.group.name}:${boot.place.id}`, boot.group.listen, ...boot.modules]
}

export function ownProgram(): Program {
  return { node: process.execPath, startFile: startFile() }
}
