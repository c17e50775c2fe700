// What becomes of the answers that several subscribers of one process give to one request: one counts.

import { Readable } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { isStream } from '../../src/messaging/stream-source.ts'
import { type Subscriber, subscriptions } from '../../src/messaging/subscriptions.ts'
import { nothing } from '../../src/nothing.ts'
import { Host, meshOf } from '../support/mesh.ts'
import { nextTurn, until } from '../support/until.ts'

type Handler = () => unknown

/** @param fails when it is opened */
function readable(fails = false): Readable {
  const construct = (done: (error?: Error) => void) =>
    setImmediate(() => done(fails ? new Error('no file') : undefined))
  return new Readable({ objectMode: true, construct, read: nothing })
}

function fail(): never {
  throw new TypeError('on purpose')
}

async function failLate(): Promise<never> {
  await nextTurn()
  return fail()
}

/** The handlers of one process answer a request. Returns the answer, or the error's name, and how many errors were logged. */
async function answerOf(handlers: readonly Handler[], look: (answer: unknown) => unknown = nothing) {
  const { mesh, close } = meshOf(new Host())
  let logged = 0
  subscriptions.onThrown = () => void logged++
  const all = handlers.map((handler): Subscriber => ({ pattern: 'ask', queue: '', handler, isOver: false }))
  for (const one of all) await subscriptions.add(one)
  const answer = await mesh.hub.request('ask', 1, {}).catch(({ name }) => name)
  await look(answer)
  for (let turn = 0; turn < 5; turn++) await nextTurn() // those that come later
  for (const one of all) subscriptions.delete(one)
  close()
  return { answer, logged }
}

/** Handlers that answer with streams, at once and later, and what they have answered with. */
function streaming(): { streams: Readable[]; handlers: readonly Handler[] } {
  const streams: Readable[] = []
  const stream = (fails: boolean) => {
    const one = readable(fails)
    streams.push(one)
    return one
  }
  const handlers = [false, true].flatMap((fails): Handler[] => [
    () => stream(fails),
    async () => stream(fails),
    async () => {
      await nextTurn()
      return stream(fails)
    },
  ])
  return { streams, handlers }
}

test('the streams that are not the answer are ended, also those that fail; other errors than the one told are logged', async () => {
  for (const first of [() => 'first', async () => 'first']) {
    const isLate = first() !== 'first'
    const { streams, handlers } = streaming()
    const others = isLate ? handlers.filter((_, at) => at % 3 > 0) : handlers // what is there at once comes first
    assert.equal(await answerOf([fail, first, ...others, failLate]), { answer: 'first', logged: 2 })
    await until(() => streams.length === others.length && streams.every(({ closed }) => closed))
  }
  assert.equal(await answerOf([fail, fail, failLate, () => undefined]), { answer: 'TypeError', logged: 2 })
})

test('the stream that is the answer is not, though two handlers give it', async () => {
  const stream = readable()
  const look = async (answer: unknown) => {
    if (!isStream(answer)) throw new Error('it is no stream')
    for (let turn = 0; turn < 5; turn++) await nextTurn()
    assert.not.ok(stream.destroyed)
    stream.push('item')
    for await (const item of answer) {
      assert.is(item, 'item')
      break
    }
  }
  await answerOf([() => stream, async () => stream], look)
  await until(() => stream.closed)
})

test.run()
