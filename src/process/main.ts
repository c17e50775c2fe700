// The start file's first and only call: finds out which role this process has, and plays it.

import { callBack } from './callback-child.ts'
import type { Channel } from './channel.ts'
import { describe, work } from './child.ts'
import { runCommand } from './command.ts'
import { EarlierMaster } from './earlier-master.ts'
import { registry } from './group.ts'
import { keep } from './keep.ts'
import type { Boot, FromChild, MasterBoot, ToChild } from './messages.ts'
import { adoptNodeSettings } from './node-flags.ts'
import { runMaster } from './run-master.ts'
import { takeBoot, takeChannel } from './spawn.ts'
import { outliveTerminal } from './terminal.ts'

export async function main(): Promise<void> {
  outliveTerminal()
  const channel = takeChannel()
  const boot = takeBoot()
  if (boot !== null) return lead(boot, null)
  if (channel === null) process.exit(await runCommand(process.argv.slice(2), null))
  channel.onMessage = (message) => {
    if (message.type === 'boot') void play(channel, message.boot)
  }
  channel.onClose = () => process.exit() // whoever spawned us is gone already
}

async function lead(
  { node, options, isDaemon, inheritance }: MasterBoot,
  channel: Channel<ToChild, FromChild> | null,
): Promise<void> {
  adoptNodeSettings(node)
  const earlier = inheritance === undefined || channel === null ? null : new EarlierMaster(inheritance, channel)
  process.exit(await runMaster(options, isDaemon, channel, earlier))
}

async function play(channel: Channel<ToChild, FromChild>, boot: Boot): Promise<void> {
  registry() // a module that brings its own copy of the package is told so
  if (boot.role === 'master') return lead(boot, channel)
  if (boot.role === 'keeper') return keep(boot, channel)
  for (const name of Object.keys(process.env)) if (name.startsWith('MILLRACE_')) delete process.env[name]
  if (boot.role === 'describe') await describe(boot, channel)
  else if (boot.role === 'callback') await callBack(boot, channel)
  else await work(boot, channel)
}
