// A group's slots and sockets, as the master keeps them.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { newCounters } from '../../src/counters.ts'
import type { BoundSocket } from '../../src/net/bound-socket.ts'
import type { Declaration } from '../../src/process/group.ts'
import { type Blueprint, GroupState, socketOf } from '../../src/process/master/group-state.ts'
import type { WorkerExitInfo, WorkerHandle } from '../../src/process/master/worker-handle.ts'
import { groupStatus, pollAll, totalsOf } from '../../src/process/status/status.ts'

function socket(endpoint: string): BoundSocket {
  return { endpoint, fd: -1 } as BoundSocket
}

function group(): GroupState {
  const engine = { name: 'node', why: '' } as const
  const declaration = { name: 'g', count: 1, reusePort: false, crashLoopAfter: 3, engine } as Declaration
  const key: Blueprint['key'] = { name: 'g', listen: '', nth: 0 }
  return new GroupState({ key, mailbox: 'g', declaration, sockets: [], tlsFiles: {} })
}

test('a group that was stopped binds what its processes listen on by themselves anew: the old sockets are closed', async () => {
  const one = group()
  let bound = 0
  const bind = async () => socket(`127.0.0.1:${++bound}`)
  assert.is((await one.innerSocket('text://127.0.0.1:0', bind)).endpoint, '127.0.0.1:1')
  assert.is((await one.innerSocket('text://127.0.0.1:0', bind)).endpoint, '127.0.0.1:1')
  assert.equal(
    one.sockets.map(({ endpoint }) => endpoint),
    ['127.0.0.1:1'],
  )
  const late = one.innerSocket('text://127.0.0.2:0', bind)
  one.stop()
  await late // it was being bound
  assert.equal(one.sockets, [])
  assert.equal(one.innerEndpoints, [])
  one.isStopped = false
  assert.is((await one.innerSocket('text://127.0.0.1:0', bind)).endpoint, '127.0.0.1:3')
  assert.is((await one.innerSocket('text://127.0.0.2:0', bind)).endpoint, '127.0.0.1:4')
})

test('after a reload that was given up on the way, who shares a socket is on the new one, not on one without a file', () => {
  const before = group()
  before.blueprint = { ...before.blueprint, sockets: [socket('/run/g.sock')] }
  for (let n = 0; n < 2; n++)
    before.addSlot({ isHeld: false }).current = { socket: before.blueprint.sockets[0] } as WorkerHandle
  const anew = socket('/run/g.sock') // somebody had removed the file of the other
  const wanted = { ...before.blueprint, declaration: { ...before.blueprint.declaration, count: 3 }, sockets: [anew] }
  before.blueprint = wanted // its first slot has that
  before.giveUp(wanted, 3)
  assert.is(before.blueprint.declaration.count, 2)
  assert.is(socketOf(before.blueprint, 0), anew)
  assert.is(socketOf(before.blueprint, 1), anew)
})

/** A process that has handled so many messages, and answers when the test says so. */
function counting(messagesIn: number, answer: Promise<boolean>): WorkerHandle {
  const report = { counters: { ...newCounters(), messagesIn }, memory: 0, timers: 0, work: '' }
  const countersOfThePast = () => report.counters
  return { state: 'ready', silentMs: 0, poll: () => answer, report, countersOfThePast } as unknown as WorkerHandle
}

test('a process that ends while another is still asked is in the totals once', async () => {
  const one = group()
  const slot = one.addSlot({ isHeld: false })
  let tell: (isAnswer: boolean) => void = () => undefined
  const late = new Promise<boolean>((resolve) => {
    tell = resolve
  })
  const old = counting(300, Promise.resolve(true))
  slot.current = counting(5, late)
  slot.leaving.add(old)
  const polled = pollAll([one])
  slot.forget(old, {} as WorkerExitInfo)
  tell(false)
  const status = groupStatus(one, await polled)
  assert.is(totalsOf([status]).messagesIn, 305)
  assert.equal(
    status.workers.map(({ state }) => state),
    ['busy'],
  )
})

test.run()
