// What a Worker refuses at its declaration, and what it takes over from Workerman.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { AsyncTcpConnection } from '../src/client/async-tcp-connection.ts'
import { Connection } from '../src/connection.ts'
import { codeOf, quoted, SystemError } from '../src/errors.ts'
import '../src/index.ts'
import { sendLogTo } from '../src/log.ts'
import { registry } from '../src/process/group.ts'
import { settingsOf } from '../src/worker/statics.ts'
import { Worker } from '../src/worker.ts'
import { nextTurn, rejects } from './support/until.ts'

const hasCode = (code: string) => (error: unknown) => codeOf(error) === code

test('settings stand in either argument, with an address or without', () => {
  const settings = { name: 'foo', count: 3 }
  for (const worker of [new Worker(undefined, settings), new Worker(settings), new Worker('text://x:1', settings)]) {
    assert.equal([worker.name, worker.count], ['foo', 3])
  }
})

test('a bad address is told at the constructor, an unknown scheme when the declaration is read', () => {
  assert.throws(() => new Worker('text:/127.0.0.1:80'), hasCode('ERR_BAD_ADDRESS'))
  const gopher = new Worker('gopher://127.0.0.1:70')
  assert.throws(() => gopher.describe(), hasCode('ERR_UNKNOWN_SCHEME'))
})

test('what is no setting is refused, methods and counters too', () => {
  for (const key of ['cuont', 'start', 'connections', 'counters', 'id']) {
    assert.throws(() => new Worker('text://x:1', { [key]: 1 } as object), hasCode('ERR_UNKNOWN_OPTION'))
  }
})

test('a misspelt callback is refused with the name that is meant, and one that a protocol may have is not', () => {
  for (const [key, meant] of [
    ['onMesage', 'onMessage'],
    ['onCLose', 'onClose'],
    ['onWorkerStrat', 'onWorkerStart'],
    ['onWebsocketConnect', 'onWebSocketConnect'],
  ] as const) {
    const misspelt = { [key]: () => 1 }
    const assigned = Object.assign(new Worker('text://127.0.0.1:0'), misspelt)
    for (const use of [
      () => new Worker('text://x:1', misspelt),
      () => new AsyncTcpConnection('text://127.0.0.1:1', misspelt),
      () => assigned.describe(),
    ]) {
      assert.throws(use, hasCode('ERR_UNKNOWN_OPTION'))
      assert.throws(use, new RegExp(`has no callback '${key}': is '${meant}' meant\\?`))
    }
  }
  const own = new Worker('text://127.0.0.1:0', { onTopic: () => 1, onConnected: () => 1 } as object)
  own.describe()
})

test('what is no address and no settings is refused as such', () => {
  for (const args of [
    [null],
    [null, {}],
    ['text://x:1', null],
    ['text://x:1', 'echo'],
    [5],
    [{ listen: 5 }],
    [undefined, 1],
  ]) {
    assert.throws(() => Reflect.construct(Worker, args), hasCode('ERR_BAD_OPTION'))
  }
  assert.is(new Worker().name, 'none')
})

test('peers by address are for a Worker that receives datagrams', () => {
  for (const worker of [new Worker('text://127.0.0.1:0'), new Worker('udp://127.0.0.1:0')])
    assert.throws(() => worker.peerAt('127.0.0.1', 9), hasCode('ERR_NO_UDP'))
})

test('numbers that cannot work are refused, by name', () => {
  const bad = {
    count: Number.POSITIVE_INFINITY,
    backlog: 0,
    maxInFlight: 0,
    maxPackageSize: Number.NaN,
    idleTimeoutMs: -1,
  }
  for (const [key, value] of Object.entries(bad)) {
    const worker = new Worker('text://x:1', { [key]: value })
    assert.throws(() => worker.describe(), new RegExp(key))
    assert.throws(() => worker.describe(), hasCode('ERR_BAD_OPTION'))
  }
})

test('a count below 1 is 1, as Workerman; a fraction is cut', () => {
  assert.is(new Worker({ count: 0 }).describe().count, 1)
  assert.is(new Worker({ count: 2.5 }).describe().count, 2)
})

test('a startTimeoutMs of 0 is for ever', () => {
  assert.ok(new Worker({ startTimeoutMs: 0 }).describe().startTimeoutMs > 1e9)
})

test('every limit of Infinity reaches the master as no limit: a declaration is the same after JSON', () => {
  const limits = {
    ...{ startTimeoutMs: Number.POSITIVE_INFINITY, drainTimeoutMs: Number.POSITIVE_INFINITY },
    ...{ maxRequests: Number.POSITIVE_INFINITY, maxMemory: Number.POSITIVE_INFINITY },
    ...{ maxLifetimeMs: Number.POSITIVE_INFINITY, stuckTimeoutMs: Number.POSITIVE_INFINITY },
    ...{ crashLoopAfter: Number.POSITIVE_INFINITY, maxConnections: Number.POSITIVE_INFINITY },
  }
  const declaration = new Worker('text://x:1', limits).describe()
  assert.equal(JSON.parse(JSON.stringify(declaration)), declaration)
  const { maxRequests, maxMemory, maxLifetimeMs, stuckTimeoutMs, crashLoopAfter } = declaration
  assert.equal([maxRequests, maxMemory, maxLifetimeMs, stuckTimeoutMs], [0, 0, 0, 0])
  assert.ok(crashLoopAfter > 1e9)
})

test('other settings that cannot work are refused, by name and value', () => {
  const bad = { drainTimeoutMs: -1, reloadMode: 'soon', reloadable: 1, execArgv: 'x', user: 5, group: null, name: 7 }
  for (const [key, value] of Object.entries(bad)) {
    const worker = new Worker('text://x:1', { [key]: value } as object)
    assert.throws(() => worker.describe(), new RegExp(`${key} of worker .* is ${quoted(value)}: it must be`))
    assert.throws(() => worker.describe(), hasCode('ERR_BAD_OPTION'))
  }
})

test('a name has 255 bytes at most', () => {
  assert.is(new Worker({ name: 'n'.repeat(255) }).describe().name.length, 255)
  for (const name of ['n'.repeat(256), 'ä'.repeat(128)])
    assert.throws(() => new Worker({ name }).describe(), /it must be a string of at most 255 bytes/)
})

test('a callback is a function, whatever its name', () => {
  for (const name of ['onMessage', 'onWorkerStart', 'onWebSocketClose']) {
    const worker = new Worker('text://127.0.0.1:0')
    Reflect.set(worker, name, 5)
    assert.throws(() => worker.describe(), new RegExp(`${name} of worker 'none' is 5: it must be a function`))
  }
})

test('log takes anything: what was thrown, with its stack, and what cannot be shown', () => {
  const lines: string[] = []
  sendLogTo((line) => lines.push(line))
  const unreadable = {
    get [Symbol.toStringTag]() {
      throw new Error('no name')
    },
    toString() {
      throw new Error('no text')
    },
  }
  const anything = [
    'line',
    5,
    undefined,
    null,
    ['a', 1],
    Buffer.from('b'),
    new Error('away', { cause: 'why' }),
    unreadable,
  ]
  for (const one of anything) Worker.log(one)
  sendLogTo(null)
  assert.equal(lines.slice(0, 6), ['line', '5', 'undefined', 'null', "[ 'a', 1 ]", '<Buffer 62>'])
  assert.match(lines[6] ?? '', /^Error: away\n +at .*why/s)
  assert.is(lines.length, anything.length)
  for (const line of lines) assert.type(line, 'string')
})

test('stopAll refuses what is no exit code where it is passed', () => {
  for (const code of [new Error('db lost'), '3', 1.5, -1, 256, Number.NaN, null])
    assert.throws(() => Worker.stopAll(code as number), hasCode('ERR_BAD_OPTION'))
})

test('a drain ends when nothing is at work: onWorkerStop, unsettled callbacks, holds', async () => {
  const worker = new Worker({ name: 'w' })
  let stop: () => void = () => undefined
  worker.onWorkerStop = () => new Promise<void>((resolve) => (stop = resolve))
  const first = worker.hold('upload')
  const second = worker.hold()
  worker.unsettled = 1
  assert.is(worker.describeWork(), '1 unsettled handler, 2 holds (upload)')
  let isDone = false
  const done = worker.drain(60_000).then(() => {
    isDone = true
  })
  const steps = [
    () => stop(),
    () => first(),
    () => first(), // again, for nothing
    () => worker.unsettled--,
    () => second[Symbol.dispose](),
  ]
  for (const step of steps) {
    await new Promise((resolve) => setImmediate(resolve))
    assert.not(isDone)
    step()
  }
  await done
  assert.is(worker.describeWork(), '')
})

test('nothing at work is not enough while onWorkerStop has not settled: it may begin something', async () => {
  const worker = new Worker({ name: 'w' })
  let stop: () => void = () => undefined
  worker.onWorkerStop = () => new Promise<void>((resolve) => (stop = resolve))
  const release = worker.hold()
  let isDone = false
  const done = worker.drain(60_000).then(() => {
    isDone = true
  })
  release()
  await new Promise((resolve) => setImmediate(resolve))
  assert.not(isDone)
  stop()
  await done
})

test('reasons of holds are shown once each, five of them and not at length: the master hears of them each second', () => {
  const worker = new Worker({ name: 'w' })
  const releases = ['a', 'b', 'a', '', 'c', 'd', 'e', 'a'].map((why) => worker.hold(why))
  assert.is(worker.describeWork(), '8 holds (a, b, c, d, e)')
  worker.hold('f')
  assert.is(worker.describeWork(), '9 holds (a, b, c, d, e, ...)')
  for (const release of releases) release()
  assert.is(worker.describeWork(), '1 hold (f)')
  for (let n = 0; n < 10_000; n++) worker.hold(`${n} ${'x'.repeat(1000)}`)
  assert.ok(worker.describeWork().length < 1000)
  worker.hold(7 as never) // JavaScript has no types
  assert.match(worker.describeWork(), /^10002 holds/)
})

test('signal aborts when the worker leaves, also when it is asked for late', async () => {
  const worker = new Worker({ name: 'w' })
  const { signal } = worker
  assert.not(signal.aborted)
  await worker.drain(1000)
  assert.is(signal.reason.code, 'ERR_WORKER_STOPPING')
  const late = new Worker({ name: 'late' })
  await late.drain(1000)
  assert.ok(late.signal.aborted)
})

test('a listen() that fails while onWorkerStart does something else is its failure to start', async () => {
  const worker = new Worker({ name: 'outer' })
  registry().requestSocket = () => Promise.reject(new SystemError('EADDRINUSE', 'bind', '127.0.0.1:1'))
  worker.onWorkerStart = async () => {
    void new Worker('text://127.0.0.1:1').listen()
    for (let n = 0; n < 3; n++) await nextTurn()
  }
  const place = { id: 0, incarnation: 1, sockets: [], tls: { ticketKeys: '', files: {} } }
  await rejects(worker.start(place), 'EADDRINUSE')
  registry().requestSocket = null
})

test('static settings of Workerman that have no meaning here are refused, with what there is instead', () => {
  for (const name of ['daemonize', 'statusFile', 'eventLoopClass', 'globalEvent', 'outputStream', 'command']) {
    Reflect.set(Worker, name, true)
    try {
      settingsOf(Worker)
      assert.unreachable()
    } catch (error) {
      assert.is(codeOf(error), 'ERR_UNKNOWN_OPTION')
      assert.match(String(error), new RegExp(`Worker has no setting '${name}': .{10}`))
    } finally {
      Reflect.deleteProperty(Worker, name)
    }
  }
  settingsOf(Worker)
})

test('the names of states are those of getStatus()', () => {
  const { STATUS_INITIAL, STATUS_CONNECTING, STATUS_ESTABLISHED, STATUS_ENDING, STATUS_CLOSING, STATUS_CLOSED } =
    Connection
  const client = new AsyncTcpConnection('tcp://127.0.0.1:1')
  assert.is(client.getStatus(), STATUS_INITIAL)
  assert.equal([STATUS_CONNECTING, STATUS_ESTABLISHED, STATUS_ENDING, STATUS_CLOSING, STATUS_CLOSED], [1, 2, 4, 8, 16])
})

test.run()
