// Who accepts on which of a port's sockets, with a kernel and processes that only note what they are told.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Sys } from '../../src/addon-types.ts'
import type { BoundSocket } from '../../src/net/bound-socket.ts'
import type { Declaration } from '../../src/process/group.ts'
import { type Blueprint, GroupState } from '../../src/process/master/group-state.ts'
import { PortShare } from '../../src/process/master/port-share.ts'
import type { Slot } from '../../src/process/master/slot.ts'
import type { WorkerHandle } from '../../src/process/master/worker-handle.ts'

interface Scene {
  readonly share: PortShare
  readonly group: GroupState
  readonly slots: readonly Slot[]
  readonly told: string[]
  /** Connections that wait, by the socket's descriptor; what is looked at is taken away one by one. */
  readonly pending: Map<number, number>
  shrink(count: number): void
}

function scene(count: number): Scene {
  const told: string[] = []
  const pending = new Map<number, number>()
  const sockets = Array.from({ length: count }, (_, n) => ({ endpoint: '127.0.0.1:1', fd: 10 + n }) as BoundSocket)
  const declaration = { name: 'g', count, reusePort: true, crashLoopAfter: 3 } as Declaration
  const key: Blueprint['key'] = { name: 'g', listen: '', nth: 0 }
  const blueprint: Blueprint = { key, mailbox: 'g', declaration, sockets, tlsFiles: {} }
  const group = new GroupState(blueprint)
  const sys = {
    chooseAmong: (_fd: number, places: number[]) => void told.push(`choose ${places}`),
    acceptQueue: (fd: number) => {
      const length = pending.get(fd) ?? 0
      pending.set(fd, Math.max(0, length - 1))
      return { length, limit: 128 }
    },
  } as unknown as Sys
  const share = new PortShare(group, { sys } as ConstructorParameters<typeof PortShare>[1])
  Object.assign(group, { share })
  const slots = sockets.map((socket) => {
    const slot = group.addSlot({ isHeld: false })
    slot.current = {
      state: 'ready',
      isAccepting: true,
      isFull: false,
      isServing: true,
      innerSockets: new Set(),
      socket,
      report: { counters: { connections: slot.id } },
      standIn: (place: number) => void told.push(`${slot.id} stands in for ${place}`),
      relieve: async (place: number) => {
        told.push(`${slot.id} is relieved of ${place}`)
        await new Promise(setImmediate)
        told.push(`${slot.id} has closed ${place}`)
      },
    } as unknown as WorkerHandle
    return slot
  })
  const shrink = (to: number) => {
    group.blueprint = { ...blueprint, declaration: { ...declaration, count: to }, sockets: sockets.slice(0, to) }
  }
  return { share, group, slots, told, pending, shrink }
}

test('a place that goes takes its stand-in along, before its socket is closed', async () => {
  const { share, group, slots, told } = scene(3)
  const [, , last] = slots as [Slot, Slot, Slot]
  last.current = null // it did not come up
  share.settle()
  assert.equal(told.splice(0), ['choose 0,1', '0 stands in for 2'])
  await share.dismiss(last)
  assert.equal(told.splice(0), ['0 is relieved of 2', '0 has closed 2'])
  share.settle() // the slot is still there
  assert.equal(told, [])
  group.slots = group.slots.slice(0, 2)
  share.settle()
  assert.equal(told, [])
})

test('who is full is left out while anybody has room, and where all are nobody stands in', async () => {
  const { share, slots, told } = scene(3)
  const full = (...places: number[]) => {
    for (const { id, current } of slots) if (current !== null) current.isFull = places.includes(id)
    share.settle()
    return told.splice(0)
  }
  assert.equal(full(), ['choose 0,1,2'])
  assert.equal(full(0), ['choose 1,2', '1 stands in for 0'])
  assert.equal(full(0, 1), ['choose 2', '1 is relieved of 0', '2 stands in for 0', '2 stands in for 1'])
  assert.equal(full(0, 1, 2), ['choose 0,1,2', '2 is relieved of 0', '2 is relieved of 1'])
  await share.dismiss(slots[0] as Slot)
  const closed = told.filter((line) => line.endsWith('has closed 0'))
  assert.equal(closed, ['1 has closed 0', '2 has closed 0'], 'both that stood in for it have let go before it goes')
})

test('who does not answer is left out while anybody does, even if all of those are full', () => {
  const { share, slots, told } = scene(3)
  const states = (...states: ('serves' | 'full' | 'hangs')[]) => {
    for (const [id, state] of states.entries())
      Object.assign(slots[id]?.current ?? {}, { isFull: state === 'full', isServing: state !== 'hangs' })
    share.settle()
    return told.splice(0)
  }
  assert.equal(states('hangs', 'serves', 'serves'), ['choose 1,2', '1 stands in for 0'])
  assert.equal(states('hangs', 'hangs', 'serves'), [
    'choose 2',
    '1 is relieved of 0',
    '2 stands in for 0',
    '2 stands in for 1',
  ])
  assert.equal(states('hangs', 'full', 'full').slice(0, 2), ['choose 1,2', '2 is relieved of 1'])
  assert.equal(states('hangs', 'hangs', 'hangs').slice(0, 2), ['choose 0,1,2', '2 is relieved of 0']) // or the master has slept
})

test('what waits for a place that has no process is taken before the place goes', async () => {
  const { share, group, slots, told, pending, shrink } = scene(2)
  const [, last] = slots as [Slot, Slot]
  last.current = null // in its back-off
  share.settle()
  pending.set(11, 2)
  shrink(1)
  assert.ok(
    group.sockets.some(({ fd }) => fd === 11),
    'somebody accepts on it',
  )
  await share.giveUp(last)
  assert.is(pending.get(11), 0)
  assert.not(told.some((line) => line.includes('relieved')))
  await share.dismiss(last)
  assert.not(group.sockets.some(({ fd }) => fd === 11))
})

/** Sockets of another port, or of the same one after it was closed and bound again. */
function rebind(group: GroupState, endpoint: string, count: number): readonly BoundSocket[] {
  const sockets = Array.from({ length: count }, (_, n) => ({ endpoint, fd: 20 + n }) as BoundSocket)
  group.blueprint = { ...group.blueprint, sockets }
  return sockets
}

test('a process that is on another port gets nothing on this one, and who is on it stands in there', () => {
  const { share, group, slots, told } = scene(3)
  share.settle()
  assert.equal(told.splice(0), ['choose 0,1,2'])
  const sockets = rebind(group, '127.0.0.1:2', 3)
  share.settle()
  assert.equal(told.splice(0), [], 'what comes waits for the first process')
  Object.assign(slots[0]?.current ?? {}, { socket: sockets[0] })
  share.settle()
  assert.equal(told.splice(0), ['choose 0', '0 stands in for 1', '0 stands in for 2'])
})

test('a port that was closed and is bound again is chosen for again', () => {
  const { share, group, slots, told } = scene(2)
  share.settle()
  assert.equal(told.splice(0), ['choose 0,1'])
  const sockets = rebind(group, '127.0.0.1:1', 2)
  for (const { current, id } of slots) Object.assign(current ?? {}, { socket: sockets[id] })
  share.settle()
  assert.equal(told.splice(0), ['choose 0,1'])
})

test('where no process is ready that stays, new connections wait at the places that do', async () => {
  const { share, group, slots, told } = scene(3)
  const [first, second] = slots as [Slot, Slot, Slot]
  first.current = null
  second.current = null
  share.settle()
  assert.equal(told.splice(0), ['choose 2', '2 stands in for 0', '2 stands in for 1'])
  await share.giveUp(slots[2] as Slot, group.blueprint.sockets.slice(0, 2))
  assert.equal(told.splice(0), ['choose 0,1'])
})

test('in an upgrade what waits for a process is taken before it leaves, and the choice is the new master’s', async () => {
  const { share, slots, told, pending } = scene(2)
  pending.set(11, 2)
  await share.emptied(slots[1] as Slot)
  assert.is(pending.get(11), 0)
  assert.equal(told, [])
})

test.run()
