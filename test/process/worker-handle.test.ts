// A worker as its master sees it, with a process and a channel that do what the test says.

import type { ChildProcess } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { newCounters } from '../../src/counters.ts'
import type { BoundSocket } from '../../src/net/bound-socket.ts'
import type { Channel } from '../../src/process/channel.ts'
import { type WorkerExitInfo, WorkerHandle } from '../../src/process/master/worker-handle.ts'
import type { FromChild, ToChild } from '../../src/process/messages.ts'
import { Tail } from '../../src/process/output/logbook.ts'
import { nextTurn, until, within } from '../support/until.ts'

class FakeProcess extends EventEmitter {
  pid: number | undefined = 4711
  connected = true
  readonly signals: string[] = []
  /** What passing a handle ends with. */
  sendError: Error | null = null

  kill(signal: string): boolean {
    this.signals.push(signal)
    return true
  }

  send(_message: unknown, _handle: unknown, tell: (error: Error | null) => void): void {
    setImmediate(() => tell(this.sendError))
  }
}

interface Fake {
  readonly handle: WorkerHandle
  readonly process: FakeProcess
  readonly tail: Tail
  /** What it was told. */
  readonly told: ToChild[]
  says(message: FromChild): void
}

function fake(startTimeoutMs = Number.POSITIVE_INFINITY): Fake {
  const child = new FakeProcess()
  const tail = new Tail()
  const told: ToChild[] = []
  const channel = {
    onMessage: null as ((message: FromChild) => void) | null,
    send: (message: ToChild) => void told.push(message),
    destroy: () => undefined,
  }
  const handle = new WorkerHandle(
    {
      process: child as unknown as ChildProcess,
      channel: channel as unknown as Channel<FromChild, ToChild>,
      onNonsense: null,
    },
    { incarnation: 1, startTimeoutMs, socket: null, tail, stuckTimeoutMs: 0, meshAddress: '' },
  )
  return { handle, process: child, tail, told, says: (message) => channel.onMessage?.(message) }
}

const ready: FromChild = { type: 'ready', memory: 0 }
const report: Extract<FromChild, { type: 'report' }> = {
  type: 'report',
  report: { counters: newCounters(), memory: 0, timers: 0, work: '', lagMs: 0, isInspected: false },
}

test('a kill that is not allowed is no end: only a process that never was has none', async () => {
  const { handle, process: child, says } = fake()
  let exit: WorkerExitInfo | null = null
  void handle.gone.then((told) => {
    exit = told
  })
  says(ready)
  child.emit('error', new Error('kill EPERM'))
  child.emit('error', new Error('kill EPERM')) // nor does the second one end the master
  await new Promise(setImmediate)
  assert.is(handle.state, 'ready')
  assert.is(exit, null)
  child.emit('exit', 0, null)
  await until(() => exit !== null)

  const never = fake()
  never.process.pid = undefined
  never.process.emit('error', new Error('spawn EAGAIN'))
  assert.is((await within(1000, never.handle.gone)).word, 'spawn failed: spawn EAGAIN')
})

test('a worker that is stopped is asked once, however often somebody wants to know', async () => {
  const { handle, told, says } = fake()
  says(ready)
  for (let n = 0; n < 50; n++) assert.is(await handle.poll(0), false)
  assert.is(told.filter(({ type }) => type === 'poll').length, 1)
  for (let n = 0; n < 50; n++) assert.is(await handle.connections(0, 10, 0), null)
  assert.ok(told.filter(({ type }) => type === 'connections').length <= 16)
  says(report) // it goes on
  const polled = handle.poll(10_000)
  assert.is(told.filter(({ type }) => type === 'poll').length, 2)
  says(report)
  assert.is(await polled, true)
})

test('the longest delay of an event loop is kept for who judges it, whoever asks in between', async () => {
  const { handle, process: child, says } = fake()
  says(ready)
  for (const lagMs of [0, 300, 2]) says({ ...report, report: { ...report.report, lagMs } })
  assert.is(handle.takeLag(), 300)
  assert.is(handle.takeLag(), 0)
  child.emit('exit', 0, null)
  await handle.gone
})

test('a line that looks like that of its inspector is believed when it listens there, until it reports', async () => {
  const { handle, process: child, tail, says } = fake()
  const line = (port: number, id = 0) =>
    `Debugger listening on ws://127.0.0.1:${port}/${id}0000000-0000-0000-0000-000000000000`
  const server = net.createServer().listen(0, '127.0.0.1').unref()
  await within(1000, once(server, 'listening'))
  const { port } = server.address() as net.AddressInfo
  child.pid = process.pid
  says(ready)
  tail.lookForInspector(line(1))
  assert.not(handle.isInspected)
  tail.lookForInspector(line(port))
  assert.ok(handle.isInspected)
  says(report)
  assert.not(handle.isInspected)
  handle.innerSockets.add({ endpoint: `127.0.0.1:${port}` } as BoundSocket)
  tail.lookForInspector(line(port, 1))
  assert.not(handle.isInspected, 'what it serves there')
  tail.lookForInspector(line(99_999, 2)) // not even an address
  assert.not(handle.isInspected)
  server.close()
  child.emit('exit', 0, null)
  await handle.gone
})

test('who ends by itself is not called out of memory for what it has printed', async () => {
  for (const [code, signal, word] of [
    [3, null, 'exit 3'],
    [null, 'SIGTERM', 'signal SIGTERM'],
    [null, 'SIGABRT', 'signal SIGABRT (out of memory)'],
    [134, null, 'exit 134 (out of memory)'],
  ] as const) {
    const { handle, process: child, tail, says } = fake()
    says(ready)
    tail.take('FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory')
    child.emit('exit', code, signal)
    child.emit('close')
    assert.is((await within(1000, handle.gone)).word, word)
  }
})

test('a reason that is long is kept in part', async () => {
  const { handle, process: child, says } = fake()
  says({ type: 'failed', exitCode: 70, message: 'x'.repeat(3_000_000) })
  child.emit('exit', 70, null)
  child.emit('close')
  const { reason } = await within(1000, handle.gone)
  assert.ok(reason.startsWith('xxx') && reason.length < 10_000, `${reason.length} characters`)
})

test('a time to stop that no timer can wait is a long one, not none', async () => {
  const { handle, process: child, told, says } = fake()
  says(ready)
  handle.stop(Number.POSITIVE_INFINITY)
  assert.ok(handle.remainingMs > 1e9 && handle.remainingMs < 2 ** 31 - 1000, `${handle.remainingMs} ms`)
  const [stop] = told.filter((message) => message.type === 'stop')
  assert.is(stop?.timeoutMs, 2_000_000_000)
  await new Promise((resolve) => setTimeout(resolve, 1)) // Node makes 1 ms of too long a time: such a timer would come before this
  assert.equal(child.signals, [])
  handle.stop(2 ** 31 - 1)
  assert.is(told.filter(({ type }) => type === 'stop').length, 1)
  handle.stop(1000)
  assert.is(told.filter(({ type }) => type === 'stop').length, 2)
  child.emit('exit', 0, null)
  await handle.gone
})

test('a socket that cannot be passed on is refused, so that nobody waits for it', async () => {
  const { handle, process: child, told, says } = fake()
  says(ready)
  child.sendError = Object.assign(new Error('write EBADF'), { code: 'EBADF' })
  handle.giveSocket(7, { fd: 9, endpoint: '127.0.0.1:1', handle: {} } as unknown as BoundSocket)
  const refused = await until(() => told.find((message) => message.type === 'cannotListen'))
  assert.is(refused.request, 7)
  assert.is(refused.failure.code, 'EBADF')
  child.emit('exit', 0, null)
  await handle.gone
})

test('one that leaves by itself does not serve from then on, and has not retired before it is gone', async () => {
  const { handle, process: child, says, told } = fake()
  const heard: string[] = []
  handle.onMove = (state) => heard.push(state)
  handle.onLeaving = () => heard.push(`leaves with ${handle.announcedExitCode}`)
  void handle.retired.then(() => heard.push('retired'))
  says(ready)
  says({ type: 'leaving', exitCode: 0, timeoutMs: 30_000 })
  assert.equal(heard, ['ready', 'stopping', 'leaves with 0'])
  assert.not(handle.isAccepting)
  assert.ok(handle.remainingMs > 20_000 && handle.remainingMs <= 30_000)
  handle.retire(true) // a reload comes
  handle.stop(60_000)
  assert.not(told.some(({ type }) => type === 'stop')) // it gives itself less
  says({ type: 'leaving', exitCode: 0, timeoutMs: 5000 })
  assert.ok(handle.remainingMs <= 5000)
  handle.stop(1000)
  assert.ok(told.some(({ type }) => type === 'stop'))
  await new Promise(setImmediate)
  assert.is(heard.length, 3)
  child.emit('exit', 0, null)
  await handle.gone
  await until(() => heard.includes('retired'))
})

/** As a suspended master: resolves in the turn in which all timers of up to `ms` are late, behind them. */
function standStill(ms: number): Promise<void> {
  const behind = new Promise<void>((resolve) => setTimeout(resolve, ms + 1))
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms + 100)
  return behind
}

test('a `ready` that waited while its master was suspended comes in time; one of a process that is killed does not', async () => {
  const START_MS = 5
  const waiting = fake(START_MS)
  await standStill(START_MS)
  waiting.says(ready) // what a loop reads after its timers
  await nextTurn()
  assert.is(waiting.handle.state, 'ready')
  assert.equal(waiting.process.signals, [])

  const silent = fake(START_MS)
  await standStill(START_MS)
  await nextTurn()
  assert.equal(silent.process.signals, ['SIGKILL'])
  silent.says(ready)
  assert.is(silent.handle.state, 'starting')
  silent.process.emit('exit', null, 'SIGKILL')
  const { word, hasTimedOut, hadBeenReady } = await silent.handle.gone
  assert.equal([word, hasTimedOut, hadBeenReady], ['signal SIGKILL (not ready in time)', true, false])
  waiting.process.emit('exit', 0, null)
  await waiting.handle.gone
})

test('an end that waited to be read while its master was suspended is no kill, nor a `telling` too late', async () => {
  const SLACK_MS = 500 // what is granted beyond the window
  const [ended, tells, silent] = [fake(), fake(), fake()]
  for (const { says, handle } of [ended, tells, silent]) {
    says(ready)
    handle.stop(1)
  }
  await standStill(1 + SLACK_MS)
  ended.process.emit('exit', 0, null) // what a loop reads after its timers
  ended.process.emit('close')
  tells.says({ type: 'telling' })
  await until(() => silent.process.signals.length > 0)
  assert.equal([ended.process.signals, tells.process.signals, silent.process.signals], [[], [], ['SIGKILL']])

  for (const { process: child } of [tells, silent]) {
    child.emit('exit', 0, null) // the kill of one met a process that had ended
    child.emit('close')
  }
  for (const { handle } of [ended, tells, silent]) {
    const { word, wasKilled } = await within(1000, handle.gone)
    assert.equal([word, wasKilled], ['exit 0 (ended)', false])
  }
})

test('one that leaves before it is ready is not ready any more', async () => {
  const { handle, process: child, says } = fake()
  says({ type: 'leaving', exitCode: 0, timeoutMs: 1000 })
  says(ready)
  assert.is(handle.state, 'starting')
  child.emit('exit', 0, null)
  assert.not((await handle.gone).hadBeenReady)
})

test.run()
