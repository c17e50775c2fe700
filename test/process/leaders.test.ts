// Who leads, as the master decides it, with handles that only say who they are.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Leaders } from '../../src/process/master/leaders.ts'
import type { WorkerHandle } from '../../src/process/master/worker-handle.ts'

function candidate(pid: number, led: string[]): WorkerHandle {
  const lead = (name: string) => led.push(`${name} ${pid}`)
  return { pid, state: 'ready', lead } as unknown as WorkerHandle
}

test('beside a master whose processes lead, nobody is chosen, whatever happens to those who stand', () => {
  let mayChoose = false
  const led: string[] = []
  const leaders = new Leaders(() => mayChoose)
  const [a, b, c] = [candidate(1, led), candidate(2, led), candidate(3, led)]
  leaders.stand(a, 'job', 1)
  leaders.stand(b, 'job', 1) // the second one has settled the seat of the first
  leaders.stand(c, 'other', 1)
  leaders.resign(c, 'other', 1)
  leaders.forget(a)
  leaders.settle()
  assert.equal(led, [])
  mayChoose = true
  leaders.settle()
  assert.equal(led, ['job 2'])
  assert.equal(leaders.list(), [{ name: 'job', pid: 2 }])
})

test('a name that is free of others’ leaders is given away before the rest', () => {
  const others = new Set(['a', 'b'])
  const led: string[] = []
  const leaders = new Leaders((name) => !others.has(name))
  const handle = candidate(1, led)
  for (const name of ['a', 'b', 'c']) leaders.stand(handle, name, 1)
  assert.equal(led, ['c 1'])
  others.delete('b')
  leaders.settle()
  assert.equal(led, ['c 1', 'b 1'])
})

test('that a name has lost its leader is told, and not that a candidate has gone', () => {
  const leaders = new Leaders(() => true)
  const told: string[][] = []
  leaders.onFree = () => told.push(leaders.list().map(({ name }) => name))
  const [a, b] = [candidate(1, []), candidate(2, [])]
  leaders.stand(a, 'job', 1)
  leaders.stand(a, 'other', 2)
  leaders.stand(b, 'job', 1)
  leaders.forget(b)
  assert.equal(told, [])
  leaders.resign(a, 'job', 1)
  leaders.forget(a)
  assert.equal(told, [['other'], []])
})

test.run()
