// Who is admitted to a WebSocket: what `onWebSocketConnect` may say, and what becomes of a client meanwhile.

import { Readable } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request } from '../../../protocols/http/request.ts'
import { Response } from '../../../protocols/http/response.ts'
import { websocket } from '../../../src/index.ts'
import { open } from '../../../src/testing.ts'
import { frame, masked } from '../../fixtures/websocket.ts'
import { shown, wire } from '../../support/http.ts'
import { nextTurn, until } from '../../support/until.ts'
import { ASK, type Server, serve } from '../../support/websocket.ts'

type Judge = (connection: Server['connection'], request: Request, response: Response) => unknown

/** The answer that a client receives, and what was reported. A frame follows its handshake. */
async function judged(onWebSocketConnect: Judge) {
  const heard: string[] = []
  const onWebSocketConnected = () => void heard.push('connected')
  const onMessage = (_connection: unknown, message: unknown) => void heard.push(String(message))
  const server = serve({}, { onWebSocketConnect, onWebSocketConnected, onMessage })
  server.receive(Buffer.concat([wire(ASK()), masked(frame(0x81, 'early'))]))
  let text = ''
  await until(() => {
    text += shown(server.written())
    return text !== ''
  })
  await nextTurn()
  text += shown(server.written())
  const [head = '', body = ''] = text.replace(/Date: .*?¶/, '').split('¶¶')
  const errors = server.errors.map(({ code, message }) => `${code} ${message}`)
  return { status: Number(/ (\d+) /.exec(head)?.[1]), head, body, errors, heard, server }
}

/** The same callback, as it is and as one that takes its time. */
function inTime(judge: Judge): Judge[] {
  const later: Judge = async (...of) => {
    await nextTurn()
    return judge(...of)
  }
  return [judge, later]
}

test('nothing, true and null admit, unless `response` has a status that refuses', async () => {
  for (const answer of [undefined, true, null])
    for (const judge of inTime(() => answer)) {
      const { status, errors, heard } = await judged(judge)
      assert.equal([status, errors, heard], [101, [], ['connected', 'early']], String(answer))
    }
  for (const answer of [undefined, true, null])
    for (const judge of inTime((_connection, _request, response) => {
      response.withStatus(401).setHeader('WWW-Authenticate', 'Basic')
      return answer
    })) {
      const { status, head, errors, heard } = await judged(judge)
      assert.equal([status, errors, heard], [401, [], []], String(answer))
      assert.match(head, /¶WWW-Authenticate: Basic¶/)
    }
})

test('false refuses, with the fields that are set on `response`', async () => {
  const [plain, later] = inTime((_connection, _request, response) => {
    response.setHeader('Retry-After', '5').cookie('seen', '1')
    return false
  })
  for (const judge of [plain, later]) {
    const { status, head, body, errors } = await judged(judge as Judge)
    assert.equal([status, body, errors], [403, 'not allowed\n', []])
    assert.match(head, /¶Retry-After: 5¶Set-Cookie: seen=1;.*¶Content-Type: text\/plain; charset=utf-8¶/)
  }
  const own = await judged((_connection, _request, response) => {
    response.withStatus(404).setHeader('Content-Type', 'text/html').withBody('<i>none</i>')
    return false
  })
  assert.equal([own.status, own.body], [404, '<i>none</i>'])
  assert.match(own.head, /¶Content-Type: text\/html¶/)
})

test('what is no answer admits nobody: an error says so, and the client gets 500', async () => {
  for (const answer of [
    new globalThis.Response(null, { status: 401 }), // whoever forgot to import ours
    { status: 401 },
    0,
    '',
    'no',
    1,
    [],
    () => true,
  ])
    for (const judge of inTime(() => answer)) {
      const { status, errors, heard } = await judged(judge)
      assert.equal([status, errors.length, heard], [500, 1, []], String(answer))
      assert.match(errors[0] ?? '', /onWebSocketConnect/)
    }
  const web = await judged(() => new globalThis.Response(null, { status: 401 }))
  assert.match(web.errors[0] ?? '', /import .*Response/)
})

test('a client that was refused at once stays refused, whatever the callback does afterwards', async () => {
  const leaves: Record<string, (connection: Server['connection']) => void> = {
    close: (connection) => connection.close(),
    end: (connection) => connection.end(),
    destroy: (connection) => connection.destroy(),
    throw: () => {
      throw new Error('on purpose')
    },
  }
  for (const [how, leave] of Object.entries(leaves))
    for (const then of [() => undefined, () => Promise.resolve(true), () => nextTurn(), () => Promise.reject(1)]) {
      const heard: string[] = []
      const server = serve(
        {},
        {
          onWebSocketConnect(connection: Server['connection']) {
            leave(connection)
            return then()
          },
          onWebSocketConnected: () => void heard.push('connected'),
          onClose: () => void heard.push('closed'),
        },
      )
      server.receive(wire(ASK()))
      for (let turn = 0; turn < 3; turn++) await nextTurn()
      const answers = shown(server.written()).match(/HTTP\/1\.1 \d+/g) ?? []
      assert.equal(answers, how === 'destroy' ? [] : [`HTTP/1.1 ${how === 'throw' ? 500 : 403}`], how)
      assert.equal(
        server.errors.filter(({ code }) => code === 2),
        [],
        how,
      )
      assert.not(heard.includes('connected'), how)
    }
})

test('no callback follows onClose: a client may be destroyed while it is being admitted', () => {
  const heard: string[] = []
  const server = serve(
    {},
    {
      maxSendBufferSize: 1000,
      onConnect: (connection: Server['connection']) => {
        connection.send('x'.repeat(999)) // waits for the handshake
        connection.onBufferFull = () => connection.destroy()
      },
      onWebSocketConnected: () => void heard.push('connected'),
      onClose: () => void heard.push('closed'),
    },
  )
  server.receive(wire(ASK()))
  assert.equal(heard, ['closed'])
})

test('a refusal with a stream or a file cannot be sent: 500, an error, and the stream is closed', async () => {
  let isCancelled = false
  const web = () =>
    new ReadableStream({
      cancel() {
        isCancelled = true
      },
    })
  for (const isLate of [0, 1]) {
    const stream = new Readable({ read: () => undefined })
    for (const answer of [
      () => new Response(401, {}, stream),
      () => new Response(401, {}, web()),
      () => new Response(403).withFile('/etc/hosts'),
    ]) {
      const { status, errors } = await judged(inTime(answer)[isLate] as Judge)
      assert.equal([status, errors.length], [500, 1])
      assert.match(errors[0] ?? '', /stream or a file/)
    }
    assert.ok(stream.destroyed)
    await until(() => isCancelled)
    isCancelled = false
  }
})

test("the time that an asynchronous onConnect takes is not the client's", async () => {
  for (const pause of [false, true]) {
    let go: (() => void) | undefined
    const onConnect = (connection: Server['connection']) => {
      if (!pause) return new Promise<void>((resolve) => (go = resolve))
      connection.pauseRecv()
      go = () => connection.resumeRecv()
      return undefined
    }
    const server = serve({ handshakeTimeoutMs: 1000 }, { onConnect })
    server.receive(wire(ASK()))
    server.advance(1100)
    go?.()
    await nextTurn()
    assert.match(shown(server.written()), /^HTTP\/1\.1 101 /, String(pause))
    assert.equal(server.errors, [])
  }
  const client = open(websocket({ handshakeTimeoutMs: 1000 }), {
    role: 'client',
    onConnect: () => new Promise<never>(() => undefined),
  })
  client.advance(1100)
  assert.equal(client.errors, [])
  const silent = serve({ handshakeTimeoutMs: 1000 }, { onConnect: () => nextTurn() })
  await nextTurn()
  await nextTurn()
  silent.advance(2000)
  assert.match(shown(silent.written()), /^HTTP\/1\.1 408 /)
})

test.run()
