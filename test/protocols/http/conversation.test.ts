// Long conversations: random requests of every kind, pipelined, cut anywhere, answered in every way there is. Each answer
// comes, in its order, and is the one of its request.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request } from '../../../protocols/http/request.ts'
import { Response } from '../../../protocols/http/response.ts'
import type { Connection } from '../../../src/connection.ts'
import { serve, wire } from '../../support/http.ts'
import { type Random, randomCuts, randomOf, seedOf } from '../../support/random.ts'
import { nextTurn, until } from '../../support/until.ts'

const SIZES = [0, 1, 100, 5000, 70_000, 300_000]
/** How a handler answers. `unread`: it does not look at the body, which is small then and was not asked for, or the connection ends. */
const WAYS = ['sync', 'later', 'late', 'stream', 'slowly', 'unread'] as const

interface Ask {
  readonly method: string
  readonly way: (typeof WAYS)[number]
  readonly size: number
  readonly bytes: Buffer
}

function pick<T>(random: Random, from: readonly T[]): T {
  return from[random(from.length)] as T
}

function asked(random: Random, id: number): Ask {
  const way = pick(random, WAYS)
  const method = pick(random, ['GET', 'POST', 'HEAD', 'PUT'])
  const size = pick(random, way === 'unread' ? SIZES.slice(0, 4) : SIZES)
  const body = Buffer.alloc(size, 'x')
  const line = `${method} /${way}?id=${id} HTTP/1.1¶Host: h¶`
  const mode = pick(random, ['', 'X-Mode: stream¶'])
  const more = `${mode}${pick(random, ['', 'X-A: b¶Cookie: c=d¶', way === 'unread' ? '' : 'Expect: 100-continue¶'])}`
  if (size === 0 && random(2) === 0) return { method, way, size, bytes: wire(`${line}${more}¶`) }
  if (random(2) === 0)
    return { method, way, size, bytes: Buffer.concat([wire(`${line}${more}Content-Length: ${size}¶¶`), body]) }
  const chunks = size === 0 ? [] : randomCuts(random, body).filter((piece) => piece.length > 0)
  const parts = chunks.flatMap((chunk) => [Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from('\r\n')])
  return {
    method,
    way,
    size,
    bytes: Buffer.concat([wire(`${line}${more}Transfer-Encoding: chunked¶¶`), ...parts, wire('0¶¶')]),
  }
}

async function answering(connection: Connection<Request, unknown>, request: Request): Promise<unknown> {
  let size = 0
  const isStreamed = request.header('x-mode') === 'stream'
  const way = request.path.slice(1)
  if (way !== 'unread' && isStreamed) for await (const bytes of request.body) size += bytes.length
  else if (way !== 'unread') size = request.rawBody().length
  const text = `${request.get('id')} ${size}`
  async function* pieces() {
    for (const char of text) {
      if (way === 'slowly') await nextTurn()
      yield char
    }
  }
  if (way === 'later') await nextTurn()
  if (way === 'late') return void setImmediate(() => connection.send(text))
  return connection.send(way === 'stream' || way === 'slowly' ? new Response(200, {}, pieces()) : text)
}

/** Status and body of each answer, of which `methods` were asked. */
function answersIn(text: string, methods: readonly string[]): string[] {
  const answers: string[] = []
  let rest = text
  while (rest !== '') {
    const end = rest.indexOf('\r\n\r\n') + 4
    const head = rest.slice(0, end)
    rest = rest.slice(end)
    if (end === 3) break
    if (head.startsWith('HTTP/1.1 100')) continue
    let body = ''
    if (methods[answers.length] !== 'HEAD') {
      const length = Number(/Content-Length: (\d+)/.exec(head)?.[1] ?? 0)
      body = rest.slice(0, length)
      if (/Transfer-Encoding: chunked/.test(head)) {
        const whole = /^(?:(?!0\r\n)[0-9a-f]+\r\n[^\r]*\r\n)*0\r\n\r\n/.exec(rest)?.[0] ?? rest
        body = whole.replace(/[0-9a-f]+\r\n([^\r]*)\r\n/g, '$1')
        rest = rest.slice(whole.length)
      } else rest = rest.slice(length)
    }
    answers.push(`${/ (\d+)/.exec(head)?.[1]} ${body}`)
  }
  return answers
}

test('every request of a conversation has its answer, in order', async () => {
  const seed = seedOf('http conversation')
  const random = randomOf(seed)
  for (let n = 0; n < 150; n++) {
    const asks = Array.from({ length: 1 + random(6) }, (_, id) => asked(random, id))
    const body = (request: Request) =>
      (request.header('x-mode') === 'stream' ? 'stream' : 'collect') as 'stream' | 'collect'
    const server = serve({ onMessage: answering } as never, { body })
    const bytes = Buffer.concat(asks.map((ask) => ask.bytes))
    for (const piece of randomCuts(random, bytes)) {
      server.receive(piece)
      if (random(4) === 0) await nextTurn()
    }
    let text = ''
    const methods = asks.map(({ method }) => method)
    const how = `SEED=${seed}, case ${n}: ${asks.map(({ method, way, size }) => `${method} ${way} ${size}`).join(', ')}`
    const isDone = () => {
      text += server.written().toString('latin1')
      return answersIn(text, methods).length === asks.length && !server.socket.hasEnded
    }
    await until(isDone).catch(() => assert.unreachable(`${how}: ${JSON.stringify(text)} ${server.errors[0]?.message}`))
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    text += server.written().toString('latin1')
    assert.equal(
      answersIn(text, methods),
      asks.map(({ method, way, size }, id) => `200 ${method === 'HEAD' ? '' : `${id} ${way === 'unread' ? 0 : size}`}`),
      how,
    )
    assert.equal([server.errors.length, server.socket.isReading], [0, true], how)
  }
})

test.run()
