// Starts a master where the current process cannot simply become it: a daemon, or a foreground server whose user file
// was run directly (its module is evaluated in this process, and user code never runs in a master).

import type { ChildProcess } from 'node:child_process'
import { closeSync } from 'node:fs'
import { addon } from '../addon.ts'
import { messageOf } from '../errors.ts'
import { log } from '../log.ts'
import { CommandError, Exit, failureOf, spawnFailure } from './exit-codes.ts'
import { defaultLog } from './log-place.ts'
import { reapOrphans } from './master/service.ts'
import type { MasterBoot, StartOptions } from './messages.ts'
import { nodeSettings } from './node-flags.ts'
import { openFile } from './open-file.ts'
import { makeRunDir, runDirCandidates } from './run-directory.ts'
import { becomeMaster, type Child, ownProgram, type Program, spawnChild } from './spawn.ts'

const LOG_MODE = 0o640

/** Starts a daemon. Resolves with its banner when all workers serve; rejects with a CommandError that says why not. */
export async function launchDaemon(options: StartOptions, program: Program = ownProgram()): Promise<string> {
  const runDir = makeRunDir(runDirCandidates(options.modules[0] ?? '', options.runDir))
  const stdio = daemonStdio(options, runDir)
  const boot = { role: 'master', options, isDaemon: true, node: nodeSettings() } as const
  keepOwnDescriptors()
  const child = spawnChild(boot, { stdio, isDetached: true, program: () => program })
  closeSync(stdio[2])
  return untilStarted(child)
}

/**
 * A daemon that had the lock of a script (`flock`, descriptor 200) or the pipe of a CI runner would hold it as long as
 * it lives. Node itself marks only the first descriptors.
 */
function keepOwnDescriptors(): void {
  try {
    addon().sys?.closeOnExec()
  } catch (error) {
    log(`the daemon inherits what this process has open: ${messageOf(error)}`) // no /proc, or EMFILE
  }
}

/**
 * Standard streams of a daemon's master. Only what V8 prints when it aborts the master goes to the file directly; log
 * lines go through output/output.ts. The caller closes the descriptor. Throws a CommandError.
 */
export function daemonStdio({ logFile }: StartOptions, runDir: string): ['ignore', 'ignore', number] {
  return ['ignore', 'ignore', openFile(logFile ?? defaultLog(runDir), 'append', LOG_MODE)]
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
 * Makes a foreground master from a process that has evaluated user code. With the addon this process becomes the master
 * by execve(2): one process fewer, and signals sent to it reach the master itself. Otherwise it stays as a thin parent.
 */
export async function runDirect(options: StartOptions): Promise<number> {
  const boot = { role: 'master', options, isDaemon: false, node: nodeSettings() } as const
  const { sys } = addon()
  if (sys === null) return runThinParent(boot)
  await Promise.all([process.stdout, process.stderr].map(flushed)) // execve would lose buffered output
  try {
    return becomeMaster(boot, sys)
  } catch {
    return runThinParent(boot) // E2BIG, ETXTBSY or a system that forbids it: nothing is lost
  }
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => stream.write('', () => resolve()))
}

/**
 * Runs a master as a child, passes signals on and returns its exit code. The master ends when this process is gone.
 * Ctrl+C reaches both, and the master takes a second SIGINT as "kill now", so our first one is passed on as SIGTERM.
 * The second one is passed on twice: if they are sent to this process alone, the master has seen no SIGINT yet.
 */
function runThinParent(boot: MasterBoot): Promise<number> {
  return follow(spawnChild(boot, { stdio: ['inherit', 'inherit', 'inherit'], isDetached: false }).process)
}

/** Runs this command line with another copy of the package: the one the app resolves. */
export function runOther(startFile: string): Promise<number> {
  const args = [...process.execArgv, startFile, ...process.argv.slice(2)]
  const { spawn } = process.getBuiltinModule('node:child_process')
  return follow(spawn(process.execPath, args, { stdio: 'inherit' }))
}

/** Further apart than the time in which two SIGINTs are one for the master. */
const OTHER_PRESS_MS = 100

/**
 * As process 1 of a container we receive the signals, and the child cannot know that: SIGTERM is passed on as SIGQUIT,
 * which is what it means there. Orphans are ours to reap, too.
 */
function follow(child: ChildProcess): Promise<number> {
  for (const signal of ['SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const)
    process.on(signal, () => child.kill(signal))
  process.on('SIGTERM', () => child.kill(process.pid === 1 ? 'SIGQUIT' : 'SIGTERM'))
  reapOrphans(() => [child.pid ?? 0])
  process.once('SIGINT', () => {
    child.kill('SIGTERM')
    process.on('SIGINT', () => {
      child.kill('SIGINT')
      setTimeout(() => child.kill('SIGINT'), OTHER_PRESS_MS)
    })
  })
  return new Promise((resolve, reject) => {
    child.once('error', (error) => reject(spawnFailure(error)))
    child.once('exit', (code) => resolve(code ?? Exit.Failure))
  })
}
