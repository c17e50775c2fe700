// A group's slots and sockets, as the master keeps them.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { BoundSocket } from '../../src/net/bound-socket.ts'
import type { Declaration } from '../../src/process/group.ts'
import { type Blueprint, GroupState } from '../../src/process/slot.ts'

function socket(endpoint: string): BoundSocket {
  return { endpoint, fd: -1 } as BoundSocket
}

function group(): GroupState {
  const declaration = { name: 'g', count: 1, reusePort: false, crashLoopAfter: 3 } as Declaration
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

test.run()
