// Makes a master where the process at hand must not be it as it is: a daemon, or the foreground server of a user's file that
// was run directly (its module is evaluated in that process, and user code never runs in a master).

import type { ChildProcess } from 'node:child_process'
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { addon } from '../addon.ts'
import { CommandError, Exit, failureOf, spawnFailure } from './exit-codes.ts'
import { reapOrphans } from './master/service.ts'
import type { MasterBoot, StartOptions } from './messages.ts'
import { nodeSettings } from './node-flags.ts'
import { openFile } from './open-file.ts'
import { makeRunDir, runDirCandidates } from './run-directory.ts'
import { becomeMaster, type Child, ownProgram, type Program, spawnChild } from './spawn.ts'

const LOG_MODE = 0o640

/** Starts a daemon; its banner when all of its workers serve. Rejects with a CommandError that says why not. */
export async function launchDaemon(options: StartOptions, program: Program = ownProgram()): Promise<string> {
  const runDir = makeRunDir(runDirCandidates(options.modules[0] ?? '', options.runDir))
  const stdio = daemonStdio(options, runDir)
  const boot = { role: 'master', options, isDaemon: true, node: nodeSettings() } as const
  const child = spawnChild(boot, { stdio, isDetached: true, program })
  closeSync(stdio[2])
  return untilStarted(child)
}

/**
 * For a daemon's master. Only what V8 prints when it ends that itself goes to the file, which is the caller's to close: log
 * lines take the way through process/output.ts. Throws a CommandError.
 */
export function daemonStdio({ logFile }: StartOptions, runDir: string): ['ignore', 'ignore', number] {
  return ['ignore', 'ignore', openFile(logFile ?? join(runDir, 'millrace.log'), 'append', LOG_MODE)]
}

function untilStarted({ process: child, channel }: Child): Promise<string> {
  return new Promise((resolve, reject) => {
    let failure = new CommandError(Exit.Failure, 'the daemon ended before it said anything')
    channel.onMessage = (message) => {
      if (message.type === 'failed') failure = failureOf(message)
      if (message.type !== 'started') return
      child.unref()
      channel.destroy()
      resolve(message.banner)
    }
    child.once('error', (error) => reject(spawnFailure(error)))
    child.once('close', () => reject(failure))
  })
}

/**
 * Makes a master in the foreground of a process that has evaluated user code. With the addon this process becomes it, by
 * execve(2): one process less, and who started it signals the master itself. Else it stays as a thin parent.
 */
export async function runDirect(options: StartOptions): Promise<number> {
  const boot = { role: 'master', options, isDaemon: false, node: nodeSettings() } as const
  const { sys } = addon()
  if (sys === null) return runThinParent(boot)
  await Promise.all([process.stdout, process.stderr].map(flushed)) // what is in our memory would be gone
  try {
    return becomeMaster(boot, sys)
  } catch {
    return runThinParent(boot) // E2BIG, ETXTBSY, a system that does not allow it: nothing has been lost
  }
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => stream.write('', () => resolve()))
}

/**
 * Runs a master as a child, passes signals on and gives back its exit code. The master ends when this process is gone.
 * Ctrl+C reaches both, and a second SIGINT means "now": so our first is passed on as SIGTERM.
 */
function runThinParent(boot: MasterBoot): Promise<number> {
  return follow(spawnChild(boot, { stdio: ['inherit', 'inherit', 'inherit'], isDetached: false }).process)
}

/** Runs this command line with another copy of the package, the one that the app resolves. */
export function runOther(startFile: string): Promise<number> {
  const args = [...process.execArgv, startFile, ...process.argv.slice(2)]
  const { spawn } = process.getBuiltinModule('node:child_process')
  return follow(spawn(process.execPath, args, { stdio: 'inherit' }))
}

/**
 * As first process of a container we are what signals are for, and the child cannot see that: SIGTERM is passed on as what
 * it means then. Orphans come to us too.
 */
function follow(child: ChildProcess): Promise<number> {
  for (const signal of ['SIGHUP', 'SIGQUIT', 'SIGUSR2'] as const) process.on(signal, () => child.kill(signal))
  process.on('SIGTERM', () => child.kill(process.pid === 1 ? 'SIGQUIT' : 'SIGTERM'))
  reapOrphans(() => [child.pid ?? 0])
  process.once('SIGINT', () => {
    child.kill('SIGTERM')
    process.on('SIGINT', () => child.kill('SIGINT'))
  })
  return new Promise((resolve, reject) => {
    child.once('error', (error) => reject(spawnFailure(error)))
    child.once('exit', (code) => resolve(code ?? Exit.Failure))
  })
}
