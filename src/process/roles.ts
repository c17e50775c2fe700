// The roles that evaluate user code.

import { callBack } from './callback-child.ts'
import type { Channel } from './channel.ts'
import { work } from './child.ts'
import { describe } from './describe-child.ts'
import { registry } from './group.ts'
import type { CallbackBoot, DescribeBoot, FromChild, ToChild, WorkerBoot } from './messages.ts'

/** Returns when it listens to the channel. */
export function playRole(boot: CallbackBoot | DescribeBoot | WorkerBoot, channel: Channel<ToChild, FromChild>): void {
  registry() // a module that brings its own copy of the package is told so
  for (const name of Object.keys(process.env)) if (name.startsWith('MILLRACE_')) delete process.env[name]
  if (boot.role === 'worker') void work(boot, channel)
  else if (boot.role === 'describe') void describe(boot, channel)
  else void callBack(boot, channel)
}
