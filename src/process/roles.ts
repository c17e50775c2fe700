// The roles that evaluate user code.

import type { Channel } from './channel.ts'
import { callBack } from './child/callback-child.ts'
import { describe } from './child/describe-child.ts'
import { work } from './child/worker-child.ts'
import { registry } from './group.ts'
import type { CallbackBoot, DescribeBoot, FromChild, ToChild, WorkerBoot } from './messages.ts'

/** Returns once the channel has its listener. */
export function playRole(boot: CallbackBoot | DescribeBoot | WorkerBoot, channel: Channel<ToChild, FromChild>): void {
  registry() // so that a second copy of the package, brought by a module, is detected
  for (const name of Object.keys(process.env)) if (name.startsWith('MILLRACE_')) delete process.env[name]
  if (boot.role === 'worker') void work(boot, channel)
  else if (boot.role === 'describe') void describe(boot, channel)
  else void callBack(boot, channel)
}
