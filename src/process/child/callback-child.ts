// The child side of callbacks.ts: makes the calls that the master asks for, one after the other. A call that throws is
// logged and does not prevent the others.

import { stackOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { type Group, registry } from '../group.ts'
import { type CallbackBoot, isSameKey, keysOf, type MasterCall } from '../messages.ts'
import { evaluateOnce, type Up } from './role-process.ts'

export function callBack(boot: CallbackBoot, channel: Up): Promise<void> {
  return evaluateOnce(boot, channel, async (groups) => {
    for (const one of boot.calls) await call(one, groups)
  })
}

async function call(one: MasterCall, groups: readonly Group[]): Promise<void> {
  try {
    const callback = registry().callbacks[one.name]
    if (one.name !== 'onWorkerExit') {
      await callback?.()
      return
    }
    const group = groups[keysOf(groups.map((each) => each.describe())).findIndex((key) => isSameKey(key, one.group))]
    if (group === undefined) return // the code on disk no longer has such a group
    group.id = one.id ?? 0
    group.incarnation = one.incarnation ?? 0
    await callback?.(group, one.status, one.pid)
  } catch (error) {
    log(`${one.name}: ${stackOf(error)}`)
  }
}
