// Many numbered messages through crashes, reloads and changes of count, and what became of each. `MESSAGES=1000000` (or
// scripts/soak-messaging.mjs) for more of them.

import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { atLength } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import { inSandbox, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const MESSAGES = Number(process.env.MESSAGES ?? atLength(3_000, 20_000))
/** Of one source in one go, each 2 ms: so that the server is at it during all that happens, and not done before. */
const BURST = Number(process.env.BURST ?? 8)
const PATIENCE_MS = 120_000 + MESSAGES / 5

// Every number is written down by who sends it before it does, by who handles it when it does, and by who hears that it
// was not handled: with write(2), which a kill -9 takes nothing back of.
const app = `
  import { appendFileSync, existsSync, openSync, readFileSync, writeSync } from 'node:fs'
  import { Worker } from 'millrace'
  const folder = new URL('./log/', import.meta.url).pathname
  const log = (name) => {
    const fd = openSync(folder + name, 'a')
    const record = Buffer.alloc(8)
    return (source, number) => {
      record.writeUInt32LE(source, 0)
      record.writeUInt32LE(number, 4)
      writeSync(fd, record)
    }
  }
  const { sinks: count } = JSON.parse(readFileSync(new URL('./shape.json', import.meta.url)))
  const sinks = new Worker({ name: 'sinks', count, drainTimeoutMs: 20000 })
  let handled
  sinks.onWorkerStart = () => { handled = log('handled-' + sinks.id + '-' + sinks.incarnation) }
  sinks.onMessage = async (from, { source, number }) => {
    handled(source, number)
    if (number % 7 === 0) await new Promise((resolve) => setTimeout(resolve, number % 5))
    return number
  }
  const sources = new Worker({ name: 'sources', count: 2, drainTimeoutMs: 20000 })
  sources.onWorkerStart = () => {
    const [sent, not, maybe] = ['sent-', 'not-', 'maybe-'].map((name) => log(name + process.pid))
    const source = process.pid
    const failed = (error, number) => (error.mayHaveBeenHandled ? maybe : not)(source, number)
    sinks.onSendFail = (error, message) => failed(error, message.number)
    let number = 0
    let isFull = false
    sinks.onWorkerBufferFull = () => { isFull = true }
    sinks.onWorkerBufferDrain = () => { isFull = false }
    const burst = () => {
      if (existsSync(folder + 'enough') || sources.signal.aborted) return clearInterval(timer)
      for (let n = 0; n < ${BURST} && !isFull; n++) {
        const message = { source, number: ++number }
        const ref = number % 3 === 0 ? sinks.any() : sinks.by(number % 100)
        sent(source, number)
        if (number % 10 === 1) ref.request(message).then((answer) => { if (answer !== message.number) throw new Error('wrong answer') }, (error) => failed(error, message.number))
        else ref.send(message)
      }
    }
    const timer = setInterval(burst, 2)
  }
  Worker.runAll()
`

test('each message is handled once, or its sender is told; in order, and none is unaccounted for', () =>
  inSandbox(async (box) => {
    box.file('log/begun', '')
    const shape = (sinks: number) => box.file('shape.json', JSON.stringify({ sinks }))
    shape(3)
    await box.start(box.file('app.js', app))
    const sinkPids = async () =>
      workersOf(await box.status())
        .filter(({ pid, state }) => pid > 0 && state !== 'starting')
        .map(({ pid }) => pid)
    // Each step when so much more has been handled as makes them fit in.
    const steps = [
      async () => process.kill((await sinkPids())[0] as number, 'SIGKILL'),
      async () => shape(5) && (await reload(box)),
      async () => process.kill((await sinkPids())[1] as number, 'SIGKILL'),
      async () => succeeded(await box.command('scale', 'sinks', '4')),
      async () => process.kill((await sinkPids())[2] as number, 'SIGSEGV'),
      async () => shape(2) && (await reload(box)),
    ].slice(0, atLength(3, 6))
    for (const [at, step] of steps.entries()) {
      await until(() => records(box, 'handled-') >= (MESSAGES * at) / (steps.length + 1), PATIENCE_MS)
      await step()
    }
    await until(() => records(box, 'handled-') >= MESSAGES, PATIENCE_MS)
    box.file('log/enough', '')
    await until(() => outcomes(box) >= records(box, 'sent-'), PATIENCE_MS)
    await box.stop()
    account(box)
  }))

function files(box: Sandbox, kind: string): string[] {
  return readdirSync(join(box.directory, 'log')).filter((name) => name.startsWith(kind))
}

function bytesOf(box: Sandbox, name: string): Buffer {
  return readFileSync(join(box.directory, 'log', name))
}

function records(box: Sandbox, kind: string): number {
  return files(box, kind).reduce((sum, name) => sum + statSync(join(box.directory, 'log', name)).size / 8, 0)
}

/** What is handled may be reported as perhaps handled too: so this is a little early, which `account` does not mind. */
function outcomes(box: Sandbox): number {
  return records(box, 'handled-') + records(box, 'not-') + records(box, 'maybe-')
}

function account(box: Sandbox): void {
  const read = (kind: string) => {
    const counts = new Map<string, number>()
    for (const name of files(box, kind)) {
      for (const key of keysIn(bytesOf(box, name))) counts.set(key, (counts.get(key) ?? 0) + 1)
    }
    return counts
  }
  const [sent, handled, not, maybe] = [read('sent-'), read('handled-'), read('not-'), read('maybe-')]
  const report = { sent: sent.size, handled: handled.size, not: not.size, maybe: maybe.size }
  const show = (what: string, keys: string[]) =>
    `${what}: ${keys.length}, ${keys.slice(0, 5)} of ${JSON.stringify(report)}`
  const wrong = (what: string, isWrong: (key: string) => boolean) => {
    const keys = [...sent.keys()].filter(isWrong)
    assert.is(keys.length, 0, show(what, keys))
  }
  console.log(`accounting: ${JSON.stringify(report)}`)
  assert.ok(sent.size >= MESSAGES && maybe.size < sent.size / 10, JSON.stringify(report))
  wrong('handled more than once', (key) => (handled.get(key) ?? 0) > 1)
  wrong('reported more than once', (key) => (not.get(key) ?? 0) + (maybe.get(key) ?? 0) > 1)
  wrong('handled, and reported as not', (key) => handled.has(key) && not.has(key))
  wrong('unaccounted for', (key) => !handled.has(key) && !not.has(key) && !maybe.has(key))
  assert.is([...handled.keys()].filter((key) => !sent.has(key)).length, 0)
  assertOrder(box)
}

/** Of what one source sent to one slot: over all processes that had it, one after the other. */
function assertOrder(box: Sandbox): void {
  const byAge = (a: string, b: string) => Number(a.split('-')[2]) - Number(b.split('-')[2])
  const last = new Map<string, number>()
  for (const name of files(box, 'handled-').sort(byAge)) {
    const slot = name.split('-')[1]
    for (const key of keysIn(bytesOf(box, name))) {
      const [source, number] = key.split(':')
      const before = last.get(`${slot} ${source}`) ?? 0
      assert.ok(Number(number) > before, `${name}: ${key} after ${before}`)
      last.set(`${slot} ${source}`, Number(number))
    }
  }
}

function keysIn(bytes: Buffer): string[] {
  const keys: string[] = []
  for (let at = 0; at + 8 <= bytes.length; at += 8) keys.push(`${bytes.readUInt32LE(at)}:${bytes.readUInt32LE(at + 4)}`)
  return keys
}

test.run()
