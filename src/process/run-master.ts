// A process as master: its signals, what it tells the one who launched it, its exit code.

import { guardOutput, log, sendLogTo } from '../log.ts'
import { now } from '../loop/clock.ts'
import type { Channel } from './channel.ts'
import { CommandError, Exit, failedWith } from './exit-codes.ts'
import { Master } from './master/master.ts'
import { isService } from './master/service.ts'
import type { FromChild, MasterBoot, StartOptions, ToChild } from './messages.ts'
import { adoptNodeSettings } from './node-flags.ts'
import { EarlierMaster } from './upgrade/earlier-master.ts'

/** What a process does that was started as a master, or became one; it ends with it. */
export async function lead(
  { node, options, isDaemon, inheritance }: MasterBoot,
  channel: Channel<ToChild, FromChild> | null,
): Promise<never> {
  adoptNodeSettings(node)
  const earlier = inheritance === undefined || channel === null ? null : new EarlierMaster(inheritance, channel)
  process.exit(await runMaster(options, isDaemon, channel, earlier))
}

/**
 * Resolves with the exit code, when the server has ended. `launcher` is who started us as a child: to be told of the start,
 * or, when it is the `earlier` master, to be replaced.
 */
export async function runMaster(
  options: StartOptions,
  isDaemon: boolean,
  launcher: Channel<ToChild, FromChild> | null,
  earlier: EarlierMaster | null = null,
): Promise<Exit> {
  guardOutput()
  // Who launched a daemon says why it could not start. The log may be that of another server, which runs already.
  if (isDaemon) sendLogTo(ignore)
  const master = new Master(options, isDaemon, earlier)
  takeSignals(master, isDaemon)
  const isLaunched = isDaemon && earlier === null
  if (launcher !== null && earlier === null) launcher.onClose = () => master.stop(false) // a daemon nobody has seen start is not wanted either
  try {
    let isUp = false
    await master.run((banner) => {
      isUp = true
      if (!isDaemon) process.stdout.write(banner)
      else if (isLaunched && launcher !== null) {
        launcher.onClose = null
        launcher.send({ type: 'started', banner })
      }
    })
    if (!isUp) launcher?.send({ type: 'failed', exitCode: Exit.Failure, message: 'stopped before it was up' })
    return Exit.Ok
  } catch (error) {
    if (!(error instanceof CommandError)) throw error
    launcher?.send(failedWith(error))
    log(error.message)
    return error.exitCode
  } finally {
    launcher?.end()
  }
}

/** Ctrl+C may arrive twice, from the terminal and from a parent that passes signals on: that is one. */
const SAME_PRESS_MS = 50

/**
 * Handlers only take note. A second SIGINT kills. SIGHUP is the end of a server in the foreground, whose terminal has
 * gone; a daemon or a service takes it as those who send it mean it: reload. Who manages services wants SIGTERM to lose
 * nothing.
 */
function takeSignals(master: Master, isDaemon: boolean): void {
  let askedAt = 0
  const stop = (isGraceful: boolean) => {
    askedAt ||= now()
    master.stop(isGraceful)
  }
  process.on('SIGTERM', () => stop(isService()))
  process.on('SIGQUIT', () => stop(true))
  process.on('SIGINT', () => {
    if (askedAt > 0 && now() - askedAt > SAME_PRESS_MS) master.kill()
    else stop(false)
  })
  process.on('SIGUSR2', () => void master.reload())
  process.on('SIGHUP', () => {
    if (isDaemon || isService()) void master.reload()
    else stop(false)
  })
}

function ignore(): void {
  // Until there is an Output, which takes the log over.
}
