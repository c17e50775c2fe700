// Who is in charge during an upgrade: what each of the two masters may do, and what is asked of one that does not know yet.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Channel } from '../../src/process/channel.ts'
import type { Answer, Request } from '../../src/process/control/requests.ts'
import { CommandError, Exit } from '../../src/process/exit-codes.ts'
import { Answers, type Commanded } from '../../src/process/master/answers.ts'
import type { Household } from '../../src/process/master/household.ts'
import type { FromChild, ToChild } from '../../src/process/messages.ts'
import { EarlierMaster } from '../../src/process/upgrade/earlier-master.ts'
import type { Inheritance, InheritedGroup } from '../../src/process/upgrade/inheritance.ts'
import { Reign } from '../../src/process/upgrade/reign.ts'

test('until it leads nothing is its own; then all is', () => {
  const next = new Reign(true)
  const rights = () => [next.leads, next.isOpen, next.isLent]
  assert.equal(rights(), [false, true, false])
  next.move('charged')
  assert.equal(rights(), [false, true, true])
  next.move('leading')
  assert.equal(rights(), [true, false, false])
  assert.throws(() => next.move('abandoned'), /leading does not become abandoned/)
  next.settle()
  next.settle()
  assert.equal(rights(), [true, false, false])
  next.move('replaced')
  assert.equal([...rights(), next.isReplaced], [false, false, false, true])
})

test('what a master has been given and does not lead with is the other one’s to take back', () => {
  for (const path of [['abandoned'], ['charged', 'abandoned']] as const) {
    const next = new Reign(true)
    for (const to of path) next.move(to)
    next.settle()
    assert.equal([next.leads, next.isOpen, next.isLent], [false, false, true])
  }
})

test('a stop during the hand-over is done by who leads in the end, and answered by that one', async () => {
  for (const leads of [true, false]) {
    const did: string[] = []
    let decide: (leads: boolean) => void = () => undefined
    const decided = new Promise<boolean>((resolve) => {
      decide = resolve
    })
    const master = {
      groups: [],
      isReplaced: false,
      stopWindowMs: 0,
      stop: () => did.push('stopped'),
      decided: () => decided,
    } as unknown as Commanded
    const other: Answer = { ok: false, message: 'the other one' }
    const household = {
      isDaemon: true,
      output: null,
      ask: async ({ command }: Request) => {
        did.push(`passed ${command}`)
        return other
      },
    } as unknown as Household
    const answers = new Answers(master, household)
    const answer = answers.to({ command: 'stop', isGraceful: false })
    assert.ok((await answers.to({ command: 'ping' })).ok) // who only looks is not kept waiting
    assert.equal(did, [])
    decide(leads)
    assert.is((await answer).ok, leads)
    assert.equal(did, [leads ? 'stopped' : 'passed stop'])
  }
})

function earlierMaster(groups: readonly Partial<InheritedGroup>[]) {
  const said: FromChild[] = []
  const send = (message: FromChild) => void said.push(message)
  const channel = { send, onMessage: null, onClose: null } as unknown as Channel<ToChild, FromChild>
  const inheritance = { pid: process.pid, groups } as unknown as Inheritance
  const earlier = new EarlierMaster(inheritance, channel)
  return { said, earlier, says: (message: ToChild) => channel.onMessage?.(message) }
}

test('a slot that the earlier master does not have is nobody’s to retire from', async () => {
  const { earlier } = earlierMaster([
    { declaredCount: 1, scaledTo: null, slots: 2 },
    { declaredCount: 2, scaledTo: 3, slots: 3 },
  ])
  const told: string[] = []
  const all = [
    [0, 1],
    [0, 2],
    [1, 2],
    [1, 3],
    [-1, 0],
  ] as const
  for (const [group, slot] of all) void earlier.retired(group, slot).then(() => told.push(`${group}:${slot}`))
  await new Promise(setImmediate)
  assert.equal(told, ['0:2', '1:3', '-1:0'])
  earlier.settle()
  await new Promise(setImmediate)
  assert.is(told.length, 5)
})

test('a name is free when the earlier master says so, or has gone with all of its processes', () => {
  const { earlier, says } = earlierMaster([])
  const told: boolean[][] = []
  const look = () => told.push(['a', 'b', 'c'].map((name) => earlier.isFree(name)))
  earlier.onFree = look
  look()
  says({ type: 'led', names: ['a', 'b'] })
  says({ type: 'led', names: ['a'] })
  earlier.settle()
  look()
  assert.equal(told, [
    [false, false, false],
    [false, false, true],
    [false, true, true],
    [true, true, true],
  ])
})

test('who is replaced hears of a failure at once, and of a stop with the time that it gives', () => {
  const { earlier, said } = earlierMaster([])
  earlier.hurry(500)
  earlier.fail(new CommandError(Exit.Address, 'taken'))
  earlier.leads()
  earlier.hurry(500)
  assert.equal(
    said.filter(({ type }) => type === 'failed' || type === 'hurry'),
    [
      { type: 'failed', exitCode: Exit.Address, message: 'taken', code: 'ERR_ADDRESS', next: '' },
      { type: 'hurry', timeoutMs: 500 },
    ],
  )
})

test.run()
