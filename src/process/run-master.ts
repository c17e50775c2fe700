// Runs a process as master: its signals, its reports to the process that launched it, its exit code.

import { guardOutput, log, sendLogTo } from '../log.ts'
import { now } from '../loop/clock.ts'
import { nothing } from '../nothing.ts'
import type { Channel } from './channel.ts'
import { nextStep, type Typed } from './commands/next-step.ts'
import { CommandError, Exit, failedWith } from './exit-codes.ts'
import { Master } from './master/master.ts'
import { isService } from './master/service.ts'
import type { FromChild, MasterBoot, StartOptions, ToChild } from './messages.ts'
import { adoptNodeSettings } from './node-flags.ts'
import { logToTerminal } from './output/output.ts'
import { lastWords, screenOf } from './output/screen.ts'
import { EarlierMaster } from './upgrade/earlier-master.ts'

/** The main function of a process that was started as a master, or became one. Exits when the master ends. */
export async function lead(
  { node, options, isDaemon, inheritance }: MasterBoot,
  channel: Channel<ToChild, FromChild> | null,
): Promise<never> {
  adoptNodeSettings(node)
  const earlier = inheritance === undefined || channel === null ? null : new EarlierMaster(inheritance, channel)
  process.exit(await runMaster(options, isDaemon, channel, earlier))
}

/**
 * Resolves with the exit code when the server has ended. `launcher` is the process that started us as a child: it is
 * notified of the start or, if it is the `earlier` master, replaced.
 */
export async function runMaster(
  options: StartOptions,
  isDaemon: boolean,
  launcher: Channel<ToChild, FromChild> | null,
  earlier: EarlierMaster | null = null,
): Promise<Exit> {
  guardOutput()
  // The launcher of a daemon reports why it could not start. The log may belong to another server that is already
  // running, so nothing is written until Output takes over the log.
  if (isDaemon) sendLogTo(nothing)
  else logToTerminal(options.logFormat)
  const master = new Master(options, isDaemon, earlier)
  takeSignals(master, isDaemon)
  const isLaunched = isDaemon && earlier === null
  // A daemon whose start no one has seen is not wanted either.
  if (launcher !== null && earlier === null) launcher.onClose = () => master.stop(false)
  try {
    let isUp = false
    await master.run((banner) => {
      isUp = true
      if (!isDaemon) screenOf(1).write(banner())
      else if (isLaunched && launcher !== null) {
        launcher.onClose = null
        launcher.send({ type: 'started', banner: banner() })
      }
    })
    if (!isUp) launcher?.send({ type: 'failed', exitCode: Exit.Failure, message: 'stopped before it was up' })
    return Exit.Ok
  } catch (error) {
    if (!(error instanceof CommandError)) throw error
    launcher?.send(failedWith(error))
    log(error.message)
    if (!isDaemon && earlier === null) log(`next: ${nextStep(error, typedFor(options))}`)
    return error.exitCode
  } finally {
    launcher?.end()
    await lastWords()
  }
}

/** The line that has started this server in the foreground. */
function typedFor({ modules, isDirect, runDir, logFile }: StartOptions): Typed {
  return {
    command: 'start',
    direct: isDirect ? (modules[0] ?? '') : null,
    modules,
    runDir: runDir === process.env.MILLRACE_RUN_DIR ? undefined : runDir,
    hasLog: logFile !== undefined,
  }
}

/**
 * Ctrl+C may arrive twice, from the terminal and from a parent that passes signals on. Within this time that is one.
 */
const SAME_PRESS_MS = 50

/**
 * Handlers only record the request. A second SIGINT kills; after another signal the first one is still a stop. SIGHUP
 * stops a foreground server, whose terminal has gone; a daemon or a service reloads, as its senders expect there. Under
 * a service manager SIGTERM is a graceful stop. SIGUSR1 is a reload, too, as in Workerman: without a listener Node
 * would open its inspector, through which every user of the machine could run code in the master.
 */
function takeSignals(master: Master, isDaemon: boolean): void {
  let interruptedAt = Number.POSITIVE_INFINITY
  process.on('SIGTERM', () => master.stop(isService()))
  process.on('SIGQUIT', () => master.stop(true))
  process.on('SIGINT', () => {
    if (now() - interruptedAt > SAME_PRESS_MS) return master.kill()
    interruptedAt = Math.min(interruptedAt, now())
    master.stop(false)
  })
  for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) process.on(signal, () => void master.reload())
  process.on('SIGHUP', () => {
    if (isDaemon || isService()) void master.reload()
    else master.stop(false)
  })
}
