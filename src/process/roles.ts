// The roles that evaluate user code.

import type { Channel } from './channel.ts'
import { callBack } from './child/callback-child.ts'
import { describe } from './child/describe-child.ts'
import { work } from './child/worker-child.ts'
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
