// A client that has sent FIN: it may have half-closed, so its requests are answered; or be gone, so nothing waits for it
// without end.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request } from '../../../protocols/http/request.ts'
import { Chunk, Response } from '../../../protocols/http/response.ts'
import type { HttpSettings } from '../../../protocols/http/settings.ts'
import type { Connection } from '../../../src/connection.ts'
import { codeOf } from '../../../src/errors.ts'
import type { Wire } from '../../../src/testing.ts'
import { deferred } from '../../support/codecs.ts'
import { serve as serveAny, shown, wire } from '../../support/http.ts'
import { nextTurn, until } from '../../support/until.ts'

type Handler = (connection: Connection<Request, unknown>, request: Request) => unknown

function serve(onMessage: Handler, settings: HttpSettings = {}, limits: object = {}): Wire<Request, unknown> {
  return serveAny({ onMessage, ...limits } as never, settings) as unknown as Wire<Request, unknown>
}

const GET = 'GET / HTTP/1.1¶Host: h¶¶'
/** As Node's own calls tell it. */
const aborted = (cause: unknown) => Object.assign(new Error('aborted', { cause }), { name: 'AbortError' })
const OPEN = { 'Transfer-Encoding': 'chunked' }
const bodies = (text: string) => text.split(/HTTP\/1.1 200 OK.*?¶¶/s).slice(1)

test('a handler has a second before its signal aborts, and may answer after that', async () => {
  const work = deferred()
  const reasons: string[] = []
  const server = serve(async (connection, { signal }) => {
    signal.addEventListener('abort', () => reasons.push(codeOf(signal.reason)))
    await work.promise
    connection.send('late')
  })
  server.receive(wire(GET))
  server.end()
  server.advance(999)
  assert.equal(reasons, [])
  server.advance(1)
  assert.equal(reasons, ['ERR_CLIENT_ENDED'])
  server.advance(600_000) // its handler is at work: that is waited for
  assert.is(server.messages[0]?.signal.aborted, true)
  work.resolve()
  await until(() => server.connection.getStatus(false) === 'CLOSED')
  assert.equal(bodies(shown(server.written())), ['late'])
})

test('a pipelined request has its second from the call of its handler on', async () => {
  let isDone = false
  const server = serve(async (connection, { signal }) => {
    isDone = false
    await until(() => isDone)
    connection.send(String(signal.aborted))
  })
  server.receive(wire(GET.repeat(3)))
  server.end()
  for (let n = 1; n <= 3; n++) {
    await until(() => server.messages.length === n)
    server.advance(900)
    isDone = true
  }
  await until(() => server.connection.getStatus(false) === 'CLOSED')
  assert.equal(bodies(shown(server.written())), ['false', 'false', 'false'])
})

test('an upload that takes long to be stored has its second from the call of its handler on', async () => {
  const [stored, work] = [deferred(), deferred()]
  const form = { fields: [], files: [], dispose: async () => undefined }
  const readUploads = () => stored.promise.then(() => form)
  const seen: boolean[] = []
  const onMessage = async (connection: Connection<Request, unknown>, { signal }: Request) => {
    seen.push(signal.aborted)
    await work.promise
    seen.push(signal.aborted)
    connection.send('stored')
  }
  const server = serveAny({ onMessage } as never, { uploads: {} }, { readUploads })
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Type: multipart/form-data; boundary=X¶Content-Length: 1¶¶x'))
  server.end()
  server.advance(200_000)
  stored.resolve()
  await until(() => seen.length === 1)
  server.advance(1000)
  work.resolve()
  await until(() => server.connection.getStatus(false) === 'CLOSED')
  assert.equal(seen, [false, true])
  assert.equal(bodies(shown(server.written())), ['stored'])
})

test('a signal that is asked for late has aborted already, and a handler that fails with its reason ends quietly', async () => {
  const work = deferred()
  const server = serve(async (_connection, request) => {
    await work.promise
    request.signal.throwIfAborted()
  })
  server.receive(wire(GET))
  server.end()
  server.advance(1000)
  work.resolve()
  await until(() => server.connection.getStatus(false) === 'CLOSED')
  assert.is(server.connection.closeReason, 'peer')
  assert.equal([server.errors, shown(server.written())], [[], ''])
})

test('a handler that fails because the client of another one has gone has failed: its own client is answered', async () => {
  let flight: Promise<void> | undefined
  let isWrapped = false
  // Several requests for the same thing share one promise, which the first one's signal ends.
  const handle: Handler = (_connection, { signal }) => {
    flight ??= new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    return isWrapped ? flight.catch((reason) => Promise.reject(aborted(reason))) : flight
  }
  for (isWrapped of [false, true]) {
    flight = undefined
    const [first, second, third] = [serve(handle), serve(handle), serve(handle)]
    for (const server of [first, second, third]) server.receive(wire(GET))
    first.end()
    third.end()
    first.advance(1000)
    await until(() => [first, second, third].every(({ connection }) => connection.getStatus(false) !== 'ESTABLISHED'))
    assert.equal([first.connection.closeReason, first.errors, shown(first.written())], ['peer', [], ''])
    for (const other of [second, third]) {
      assert.match(shown(other.written()), /^HTTP\/1.1 500 /)
      assert.equal([other.connection.closeReason, other.errors.map(({ code }) => code)], ['handler', [4]])
    }
  }
})

test('a handler that obeys after its answer, or after its connection, does so quietly', async () => {
  for (const isReset of [false, true]) {
    const work = deferred()
    const server = serve(async (connection, { signal }) => {
      await work.promise
      connection.send('cut short')
      signal.throwIfAborted()
    })
    server.receive(wire(GET))
    server.end()
    server.advance(1000)
    if (isReset) server.reset()
    work.resolve()
    await until(() => server.worker.unsettled === 0)
    assert.equal(
      server.errors.filter(({ code }) => code === 4),
      [],
    )
  }
})

test('an answer that nobody is at work on is waited for two minutes, and five seconds while the worker leaves', () => {
  for (const [leavesAt, endsAt] of [
    [Number.POSITIVE_INFINITY, 121_000],
    [0, 6000],
    [50_000, 55_000],
  ] as const) {
    const server = serve(() => undefined)
    server.receive(wire(GET))
    server.end()
    if (leavesAt < endsAt) {
      server.advance(leavesAt)
      server.leave()
    }
    server.advance(endsAt - 1 - (leavesAt < endsAt ? leavesAt : 0))
    assert.is(server.connection.getStatus(false), 'ESTABLISHED', String(endsAt))
    server.advance(1)
    assert.is(server.connection.getStatus(false), 'CLOSED', String(endsAt))
    assert.equal(server.errors, [])
  }
})

test('an answer that goes on is not cut, nor one that its client has yet to read', () => {
  const server = serve((connection) => {
    connection.send(new Response(200, OPEN))
  })
  server.receive(wire(GET))
  server.end()
  server.leave()
  for (let n = 0; n < 10; n++) {
    server.advance(4000)
    server.connection.send(new Chunk('x'))
  }
  server.hold()
  server.connection.send(new Chunk('y'))
  server.advance(20_000)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.drain()
  server.connection.send(new Chunk(''))
  assert.match(shown(server.written()), /¶¶(1¶x¶){10}1¶y¶0¶¶$/)
  assert.is(server.connection.getStatus(false), 'CLOSED')
})

test('events that begin after the FIN end a second later', async () => {
  const server = serve(async (connection) => {
    await nextTurn()
    connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
  })
  server.receive(wire(GET))
  server.end()
  await until(() => shown(server.written()).includes('200 OK'))
  server.advance(999)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.advance(1)
  assert.is(server.connection.getStatus(false), 'CLOSED')
})

/** Handlers that stop the delivery of the next request. */
const STOPPING: Record<string, (connection: Connection<Request, unknown>) => unknown> = {
  'a pause': (connection) => {
    connection.pauseRecv()
    setImmediate(() => connection.resumeRecv())
    connection.send('ok')
  },
  'a pause that outlasts a later answer': (connection) => {
    connection.pauseRecv()
    setImmediate(() => {
      connection.send('ok')
      setImmediate(() => connection.resumeRecv())
    })
  },
}

test('all requests before the FIN are answered, whatever stops their delivery', async () => {
  for (const [what, handle] of Object.entries(STOPPING)) {
    const first = deferred()
    const server = serve((connection, { path }) => {
      if (path !== '/first') return handle(connection)
      return first.promise.then(() => connection.send('ok'))
    })
    server.receive(wire(`GET /first HTTP/1.1¶Host: h¶¶${GET.repeat(20)}`))
    server.end()
    first.resolve()
    await until(() => server.connection.getStatus(false) === 'CLOSED')
    assert.is(bodies(shown(server.written())).length, 21, what)
    assert.equal(server.errors, [], what)
  }
})

test('what is cut by the FIN behind a request that is answered later is refused at once', async () => {
  for (const body of ['collect', 'stream'] as const)
    for (const cut of ['GET / HT', 'POST / HTTP/1.1¶Host: h¶Content-Length: 9¶¶half']) {
      const work = deferred()
      const server = serve(
        async (connection, request) => {
          await work.promise
          for await (const _bytes of request.body);
          connection.send('ok')
        },
        { body },
      )
      server.receive(wire(`${GET}${cut}`))
      server.end()
      work.resolve()
      await until(() => server.connection.getStatus(false) === 'CLOSED')
      const statuses = [...shown(server.written()).matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status)
      assert.equal([statuses, server.errors], [['200', '400'], []], `${body} ${cut}`)
    }
})

test.run()
