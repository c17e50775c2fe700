// The start file's first and only call: finds the role of this process and loads the code of that role only. A worker
// would take a third longer to start with the master's code. This file shares no module with the roles, so each of them
// is a bundle of its own (scripts/build.mjs).

import { takeBoot, takeChannel } from './boot.ts'
import type { Channel } from './channel.ts'
import type { Boot, FromChild, MasterBoot, ToChild } from './messages.ts'
import { outliveTerminal } from './terminal/terminal.ts'

export async function main(): Promise<void> {
  outliveTerminal()
  const channel = takeChannel()
  const boot = takeBoot()
  if (boot !== null) return playMaster(boot, null)
  if (channel === null) {
    const { runCommand } = await import('./command.ts')
    process.exit(await runCommand(process.argv.slice(2), null))
  }
  channel.onMessage = (message) => {
    if (message.type === 'boot') void play(channel, message.boot)
  }
  channel.onClose = () => process.exit() // our parent is gone already
}

async function play(channel: Channel<ToChild, FromChild>, boot: Boot): Promise<void> {
  const early: ToChild[] = []
  channel.onMessage = (message) => early.push(message)
  if (boot.role === 'master') await playMaster(boot, channel)
  else if (boot.role === 'keeper') void (await import('./keep.ts')).keep(boot, channel)
  else (await import('./roles.ts')).playRole(boot, channel)
  // Messages that arrived while the role was loading.
  for (const message of early.splice(0)) channel.onMessage?.(message)
}

/** Returns once the channel has its listener. */
async function playMaster(boot: MasterBoot, channel: Channel<ToChild, FromChild> | null): Promise<void> {
  const { lead } = await import('./run-master.ts')
  void lead(boot, channel)
}
