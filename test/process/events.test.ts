// What happens in a server, told as it happens to whoever follows; and whoever follows badly hurts nobody.

import { EventEmitter } from 'node:events'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Operations } from '../../src/process/operations/operations.ts'
import { EventStream } from '../../src/process/status/event-stream.ts'
import { Events } from '../../src/process/status/events.ts'
import { Followed } from '../support/events.ts'
import { version } from '../support/reload.ts'
import { inSandbox, workersOf } from '../support/server.ts'
import { nextTurn, until, within } from '../support/until.ts'

test('a start, a crash, a reload and a stop are told step by step, without a gap', async () => {
  await inSandbox(async (box) => {
    const [worker] = workersOf(await box.start(box.file('app.js', version(1))))
    const followed = await Followed.of(box, 100)
    await followed.of({ type: 'server', state: 'running' })
    assert.equal(followed.words, ['server starting', 'spawn', 'ready', 'server running'])
    process.kill(worker?.pid ?? 0, 'SIGKILL')
    const exit = await followed.of({ type: 'exit', pid: worker?.pid })
    assert.ok(exit.type === 'exit' && !exit.isExpected && exit.word === 'signal SIGKILL' && exit.worker === 'echo:0')
    await followed.of({ type: 'backoff', waitMs: 0, failures: 1 })
    await followed.of({ type: 'ready', seq: 8 })
    box.file('app.js', version(2))
    await box.operate({ command: 'reload' })
    await followed.of({ type: 'operation', step: 'done' })
    assert.equal(followed.words.slice(8), [
      ...[
        'reload begin',
        'reload slots',
        'spawn',
        'ready',
        'slot',
        'retire',
        'reload drain',
        'leave',
        'exit',
        'reload done',
      ],
    ])
    await box.stop()
    await within(10_000, followed.ended)
    assert.equal(followed.words.slice(18), ['server stopping', 'leave', 'exit'])
    assert.equal(
      followed.all.map((event) => ('seq' in event ? event.seq : 0)),
      followed.all.map((_, place) => place + 1),
    )
  })
})

test('code that does not load ends a reload with the reason, and that is told', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1)))
    const followed = await Followed.of(box)
    box.file('app.js', 'throw new Error("planted")')
    assert.is((await box.command('reload')).code, 6)
    const failed = await followed.of({ type: 'operation', step: 'failed' })
    assert.match('reason' in failed ? failed.reason : '', /planted/)
    followed.close()
    await box.stop()
  })
})

test('so many may follow, one more is refused, and one who has left makes room', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1)))
    const all = await Promise.all(Array.from({ length: 64 }, () => Followed.of(box)))
    const refused = await Followed.of(box).catch(String)
    assert.match(String(refused), /64 clients follow the events already/)
    all[0]?.close()
    await until(() =>
      Followed.of(box).then(
        (one) => all.push(one),
        () => false,
      ),
    )
    for (const { close } of all) close()
    await box.stop()
  })
})

/** A socket whose other end takes nothing while `waiting` bytes are there. */
function slowSocket() {
  const lines: string[] = []
  const socket = Object.assign(new EventEmitter(), {
    ...{ writable: true, writableLength: 0, isDestroyed: false, lines },
    write: (line: string) => lines.push(line),
    setTimeout: (_ms: number, then?: () => void) => {
      if (then !== undefined) socket.once('timeout', then) // as Node does it
    },
    destroy: () => {
      socket.isDestroyed = true
    },
  })
  return socket
}

test('who reads slowly loses events, hears how many, and is let go when he never reads', () => {
  const socket = slowSocket()
  const events = new Events()
  const stream = new EventStream(socket as never)
  events.follow((event) => stream.tell(event))
  const tell = (reason: string) => events.emit({ type: 'server', state: 'running', reason })
  tell('a')
  socket.writableLength = 10_000_000
  tell('b')
  tell('c')
  assert.is(socket.lines.length, 1)
  socket.writableLength = 0
  tell('d')
  assert.equal(
    socket.lines.map((line) => JSON.parse(line).event).map(({ type, count, seq }) => ({ type, count, seq })),
    [
      { type: 'server', count: undefined, seq: 1 },
      { type: 'lost', count: 2, seq: undefined },
      { type: 'server', count: undefined, seq: 4 },
    ],
  )
  for (let quiet = 0; quiet < 2; quiet++) socket.emit('timeout') // nothing waits: that is no fault
  assert.not(socket.isDestroyed)
  socket.writableLength = 1
  socket.emit('timeout')
  assert.ok(socket.isDestroyed)
})

test('a few hundred events are kept, long reasons cut', () => {
  const events = new Events()
  for (let n = 0; n < 1000; n++) events.emit({ type: 'server', state: 'running', reason: 'x'.repeat(10_000) })
  const past = events.past(1_000_000)
  assert.is(past.length, 200)
  assert.equal([past[0]?.seq, past.at(-1)?.seq], [801, 1000])
  assert.ok(JSON.stringify(past).length < 1_000_000)
  assert.equal(events.past(Number.NaN), [])
})

test('operations come one after the other; the same one, asked for twice while it waits, is one', async () => {
  const operations = new Operations()
  const begun: string[] = []
  let finish = () => undefined as unknown
  const work = (name: string) => () => {
    begun.push(name)
    return new Promise<string>((resolve) => {
      finish = () => resolve(name)
    })
  }
  const first = operations.run('reload', work('first'))
  await nextTurn()
  const second = operations.run('reload', work('second'))
  const shared = operations.run('reload', work('shared'))
  const failing = operations.run('scale', () => Promise.reject(new Error('planted')))
  const third = operations.run('reload', work('third'))
  const idle = operations.idle()
  await nextTurn()
  assert.equal(begun, ['first'])
  finish()
  assert.is(await first, 'first')
  await nextTurn()
  finish()
  assert.equal([await second, await shared], ['second', 'second'])
  assert.match(await failing.catch(String), /planted/)
  await nextTurn()
  finish()
  assert.is(await third, 'third')
  await idle
  assert.equal(begun, ['first', 'second', 'third'])
})

test.run()
