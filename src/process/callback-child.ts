// The other side of callbacks.ts: evaluates the modules as describe does, then calls what the master asks for, one after the
// other. What one throws is logged, and keeps no other from being called.

import { stackOf } from '../errors.ts'
import { log } from '../log.ts'
import type { Channel } from './channel.ts'
import { dieWithMaster, exitWhenSent, fail, prepare } from './child.ts'
import { assume, lookUp } from './credentials.ts'
import { evaluate } from './evaluate.ts'
import { WorkerExit } from './exit-codes.ts'
import { type Group, registry } from './group.ts'
import { type CallbackBoot, type FromChild, isSameKey, keysOf, type MasterCall, type ToChild } from './messages.ts'

export async function callBack(boot: CallbackBoot, channel: Channel<ToChild, FromChild>): Promise<void> {
  channel.onClose = () => process.exit(WorkerExit.Ended)
  prepare(boot)
  process.on('uncaughtException', (error) => fail(channel, error))
  try {
    const given = lookUp(boot.user, boot.group)
    if (given !== null) assume(given)
    dieWithMaster()
    const groups = await evaluate(boot.modules, boot.argv, channel)
    for (const one of boot.calls) await call(one, groups)
    exitWhenSent(channel, WorkerExit.Ended)
  } catch (error) {
    fail(channel, error)
  }
}

async function call(one: MasterCall, groups: readonly Group[]): Promise<void> {
  try {
    const callback = registry().callbacks[one.name]
    if (one.name !== 'onWorkerExit') {
      await callback?.()
      return
    }
    const group = groups[keysOf(groups.map((each) => each.describe())).findIndex((key) => isSameKey(key, one.group))]
    if (group !== undefined) await callback?.(group, one.status, one.pid) // else the code on disk has no such group any more
  } catch (error) {
    log(`${one.name}: ${stackOf(error)}`)
  }
}
