// The role of the keeper (shared/keeper.ts). It lives until the master ends it or, if the master was killed, as long as
// a worker is left. Signals are ignored: a service manager sends SIGTERM to every process of the server, and workers
// may need the shared data while they end. With SIGUSR2 a master asks for the file of its socket, if that is gone.

import { messageOf } from '../errors.ts'
import { log, logRecords, nameLog } from '../log.ts'
import { nothing } from '../nothing.ts'
import { runKeeper } from '../shared/keeper.ts'
import type { Channel } from './channel.ts'
import { Exit } from './exit-codes.ts'
import type { FromChild, KeeperBoot, ToChild } from './messages.ts'

const IGNORED = ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const

export async function keep(
  { path, secret, isLogPiped }: KeeperBoot,
  channel: Channel<ToChild, FromChild>,
): Promise<void> {
  process.title = 'millrace: keeper process'
  for (const signal of IGNORED) process.on(signal, nothing)
  if (isLogPiped) logRecords()
  nameLog('keeper')
  const leave = () => process.exit(Exit.Ok)
  try {
    const keeper = await runKeeper({ path, secret })
    process.on('SIGUSR2', () => void keeper.renew(path).catch((error) => log(messageOf(error)))) // the folder is gone
    channel.onClose = () => {
      keeper.onDeserted = leave
      if (keeper.isDeserted) leave()
    }
    channel.send({ type: 'ready', memory: 0 })
  } catch (error) {
    channel.send({ type: 'failed', exitCode: Exit.Failure, message: messageOf(error) })
    channel.onClose = leave
    channel.end()
  }
}
