// The keeper with a client of its own: what a worker asks for faster than it reads, and what a liar says.

import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Keeper } from '../../src/shared/keeper.ts'
import { type Answer, encodeFrame, FrameReader, type Request } from '../../src/shared/wire.ts'
import { until } from '../support/until.ts'

const MiB = 1_048_576

async function withKeeper(use: (path: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-keeper-'))
  const path = join(directory, 'keeper.sock')
  const keeper = new Keeper('secret')
  await keeper.listen(path)
  await use(path)
  await until(() => keeper.isDeserted)
  keeper.close()
  rmSync(directory, { recursive: true })
}

function connect(path: string) {
  const answers: { head: Answer; bytes: number }[] = []
  const reader = new FrameReader<Answer>(1024 * MiB, (head, value) => answers.push({ head, bytes: value.length }))
  const socket = net.connect(path).on('data', (bytes: Buffer) => reader.read(bytes))
  const say = (request: Request, value?: Uint8Array) => socket.write(encodeFrame(request, value))
  say([0, 'hello', 'secret'])
  return { socket, answers, say }
}

test('who asks for much at once gets all of it, in order', () =>
  withKeeper(async (path) => {
    const { socket, answers, say } = connect(path)
    say([1, 'set', 'map', 'big', null, 0, null], Buffer.alloc(MiB))
    await until(() => answers.length === 1)
    for (let id = 2; id < 102; id++) say([id, 'get', 'map', 'big'])
    say([102, 'set', 'map', 'last', 7, 0, null])
    say([103, 'get', 'map', 'last'])
    await until(() => answers.length === 103, 20_000)
    assert.equal(
      answers.map(({ head }) => head[0]),
      Array.from({ length: 103 }, (_, at) => at + 1),
    )
    for (const { bytes } of answers.slice(1, 101)) assert.is(bytes, MiB)
    assert.equal(answers[102]?.head, [103, 'ok', true, 7, answers[102]?.head[4]])
    socket.destroy()
  }))

test('numbers that are none are refused, whoever says them', () =>
  withKeeper(async (path) => {
    const { socket, answers, say } = connect(path)
    const bad: [unknown[], string][] = [
      [['increment', 'map', 'key', 'text', 0], 'ERR_SHARED_STEP'],
      [['increment', 'map', 'key', 1, -1], 'ERR_SHARED_TTL'],
      [['set', 'map', 'key', { a: 1 }, 0, null], 'ERR_SHARED_STEP'],
      [['set', 'map', 'key', 1, 'soon', null], 'ERR_SHARED_TTL'],
    ]
    for (const [id, [what, code]] of bad.entries()) {
      say([id, ...what] as unknown as Request)
      await until(() => answers.length === id + 1)
      assert.equal(answers[id]?.head.slice(0, 3), [id, 'refused', code])
    }
    say([9, 'set', 'map', 'key', 1.7e308, 0, null])
    say([10, 'increment', 'map', 'key', 1.7e308, 0])
    say([11, 'get', 'map', 'key'])
    await until(() => answers.length === bad.length + 3)
    assert.equal(answers.at(-2)?.head.slice(0, 3), [10, 'refused', 'ERR_SHARED_STEP'])
    assert.is(answers.at(-1)?.head[3], 1.7e308)
    socket.destroy()
  }))

test.run()
