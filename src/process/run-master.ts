// A process as master: its signals, what it tells the one who launched it, its exit code.

import { guardOutput, log } from '../log.ts'
import { now } from '../loop/clock.ts'
import type { Channel } from './channel.ts'
import { CommandError, Exit } from './exit-codes.ts'
import { Master } from './master.ts'
import type { FromChild, StartOptions, ToChild } from './messages.ts'

/** Resolves with the exit code, when the server has ended. `launcher` is who started us as a child. */
export async function runMaster(
  options: StartOptions,
  isDaemon: boolean,
  launcher: Channel<ToChild, FromChild> | null,
): Promise<Exit> {
  guardOutput()
  const master = new Master(options, isDaemon)
  takeSignals(master, isDaemon)
  if (launcher !== null) launcher.onClose = () => master.stop(false) // a daemon nobody has seen start is not wanted either
  try {
    let isUp = false
    await master.run((banner) => {
      isUp = true
      if (!isDaemon) process.stdout.write(banner)
      else if (launcher !== null) {
        launcher.onClose = null
        launcher.send({ type: 'started', banner })
      }
    })
    if (isDaemon && !isUp)
      launcher?.send({ type: 'failed', exitCode: Exit.Failure, message: 'stopped before it was up' })
    return Exit.Ok
  } catch (error) {
    if (!(error instanceof CommandError)) throw error
    if (isDaemon) launcher?.send({ type: 'failed', exitCode: error.exitCode, message: error.message })
    log(error.message)
    return error.exitCode
  } finally {
    launcher?.end()
  }
}

/** Ctrl+C may arrive twice, from the terminal and from a parent that passes signals on: that is one. */
const SAME_PRESS_MS = 50

/** Handlers only take note. A second SIGINT kills; closing the terminal stops a server that sits on it. */
function takeSignals(master: Master, isDaemon: boolean): void {
  let askedAt = 0
  const stop = (mayKill: boolean) => {
    askedAt ||= now()
    master.stop(mayKill && now() - askedAt > SAME_PRESS_MS)
  }
  process.on('SIGTERM', () => stop(false))
  process.on('SIGQUIT', () => stop(false))
  process.on('SIGINT', () => stop(true))
  process.on('SIGHUP', () => {
    if (!isDaemon) stop(false)
  })
  process.on('SIGUSR2', () => log('SIGUSR2 will reload; this version cannot yet: stop and start'))
}
