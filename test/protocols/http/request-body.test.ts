// Streamed bodies and the answers beside them: who reads on after an early answer gets all of the body or an error, who waits
// for 100 Continue hears it, and each side is blamed for its own slowness alone.

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
  return serveAny({ onMessage, ...limits } as never, { body: 'stream', ...settings }) as unknown as Wire<
    Request,
    unknown
  >
}

const GET = 'GET / HTTP/1.1¶Host: h¶¶'
const post = (length: number, more = '') => wire(`POST / HTTP/1.1¶Host: h¶${more}Content-Length: ${length}¶¶`)
const statusOf = (written: string) => Number(/^HTTP\/1\.1 (\d+)/.exec(written)?.[1] ?? 0)

/** What is written until it is like that. */
async function writtenBy(server: Wire<Request, unknown>, isDone: (text: string) => boolean): Promise<string> {
  let text = ''
  await until(() => {
    text += shown(server.written())
    return isDone(text)
  })
  return text
}

/** What a handler makes of a body that it reads on after its answer: how much came, and how it ended. */
interface Read {
  size: number
  end: string
}

/** Answers 202 with the first bytes, and reads on. */
function early(settings: HttpSettings = {}, each: () => unknown = () => undefined) {
  const read: Read = { size: 0, end: '' }
  const server = serve(async (connection, request) => {
    if (request.method === 'GET') return connection.send('next')
    try {
      for await (const bytes of request.body) {
        if (read.size === 0) connection.send(new Response(202, {}, 'taken'))
        read.size += bytes.length
        await each()
      }
      read.end = 'whole'
    } catch (error) {
      read.end = codeOf(error)
    }
  }, settings)
  return { server, read }
}

test('a handler that answers early and reads on gets all of the body, and then the next request comes', async () => {
  for (const size of [100, 1_000_000]) {
    const { server, read } = early()
    server.receive(post(size))
    server.receive(Buffer.alloc(10))
    await until(() => read.size === 10)
    assert.match(shown(server.written()), /^HTTP\/1\.1 202 (?!.*Connection: close)/)
    for (let left = size - 10; left > 0; left -= 50_000) {
      server.receive(Buffer.alloc(Math.min(left, 50_000)))
      await nextTurn()
    }
    await until(() => read.end !== '')
    assert.equal(read, { size, end: 'whole' })
    server.receive(wire(GET))
    await until(() => server.messages.length === 2)
    assert.match(shown(server.written()), /^HTTP\/1\.1 200 .*next$/)
    assert.equal(server.errors, [])
  }
})

test('one that says Connection: close is heard to its end, too, and only then the connection ends', async () => {
  const { server, read } = early()
  server.receive(post(300_000, 'Connection: close¶'))
  server.receive(Buffer.alloc(10))
  await until(() => read.size === 10)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  for (let n = 0; n < 3; n++) server.receive(Buffer.alloc(n === 0 ? 99_990 : 100_000))
  await until(() => read.end !== '')
  assert.equal(read, { size: 300_000, end: 'whole' })
  await until(() => server.connection.getStatus(false) === 'ENDING')
})

test('a body that is cut after an early answer is an error for its reader: by the client, a limit, a deadline, a close', async () => {
  for (const cut of [
    (server: Wire<Request, unknown>) => server.end(),
    (server: Wire<Request, unknown>) => server.reset(),
    (server: Wire<Request, unknown>) => server.connection.destroy(),
    (server: Wire<Request, unknown>) => server.connection.close(),
    (server: Wire<Request, unknown>) => server.receive(Buffer.alloc(200_000)),
    (server: Wire<Request, unknown>) => server.advance(40_000),
  ]) {
    const { server, read } = early({ maxBodyBytes: 100_000 })
    server.receive(wire('POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶a¶0123456789¶'))
    await until(() => read.size === 10)
    server.receive('40000\r\n')
    cut(server)
    await until(() => read.end !== '')
    assert.match(read.end, /^ERR_(CONNECTION_CLOSED|BODY_TOO_LARGE|REQUEST_TIMEOUT)$/, String(cut))
  }
})

test('who begins to read when the rest was thrown away gets an error, and who stops does not hold up what comes', async () => {
  let code = ''
  const late = serve(async (connection, request) => {
    connection.send('early')
    try {
      for await (const _ of request.body);
    } catch (error) {
      code = codeOf(error)
    }
  })
  late.receive(Buffer.concat([post(100), Buffer.alloc(10)]))
  await until(() => code !== '')
  assert.is(code, 'ERR_BODY_DISCARDED')
  const stops = serve(async (connection, request) => {
    if (request.method === 'GET') return connection.send('next')
    for await (const _ of request.body) {
      connection.send('early')
      break
    }
  })
  stops.receive(Buffer.concat([post(100), Buffer.alloc(10)]))
  await until(() => statusOf(shown(stops.written())) === 200)
  stops.receive(Buffer.concat([Buffer.alloc(90), wire(GET)]))
  await until(() => shown(stops.written()).endsWith('next'))
  const last = serve(async (connection, request) => {
    for await (const _ of request.body) {
      connection.send('early')
      break
    }
  })
  last.receive(Buffer.concat([post(100, 'Connection: close¶'), Buffer.alloc(10)]))
  await until(() => last.connection.getStatus(false) === 'ENDING')
})

test('Expect: an answer that is made of the body asks for it, and may be followed by another', async () => {
  for (const compress of [false, true]) {
    const server = serve(
      (connection, request) =>
        connection.send(
          request.method === 'GET' ? 'next' : new Response(200, { 'Content-Type': 'text/plain' }, request.body),
        ),
      { compress },
    )
    server.receive(post(100_000, 'Expect: 100-continue¶'))
    assert.is(await writtenBy(server, (all) => all !== ''), 'HTTP/1.1 100 Continue¶¶')
    server.receive(Buffer.alloc(50_000, 'x'))
    server.receive(Buffer.concat([Buffer.alloc(50_000, 'x'), wire(GET)]))
    const text = await writtenBy(server, (all) => all.endsWith('next'))
    assert.not.match(text, /Connection: close/)
    assert.is([...text].filter((letter) => letter === 'x').length, 100_000 + 3) // and of 'text' and 'next'
    assert.equal(server.errors, [])
  }
})

test('a handler that neither reads nor answers gets its 503, though its body is full', async () => {
  let code = ''
  const server = serve(
    async (_connection, request) => {
      const iterator = request.body[Symbol.asyncIterator]()
      await iterator.next()
      await until(() => server.errors.length > 0 || server.connection.getStatus(false) !== 'ESTABLISHED')
      for (;;) {
        const next = iterator.next()
        next.catch((error) => {
          code = codeOf(error)
        })
        if ((await next).done) break
      }
    },
    { answerTimeoutMs: 1000 },
  )
  server.receive(post(1_000_000))
  for (let n = 0; n < 5; n++) server.receive(Buffer.alloc(100_000))
  await nextTurn()
  assert.is(server.socket.isReading, false)
  server.advance(999)
  assert.is(shown(server.written()), '')
  server.advance(1)
  assert.is(statusOf(shown(server.written())), 503)
  await until(() => code !== '')
  assert.is(code, 'ERR_REQUEST_TIMEOUT')
})

test('the time in which a body was not read is not its client’s', async () => {
  let goOn: () => void = () => undefined
  const server = serve(
    async (connection, request) => {
      for await (const _ of request.body) {
        await new Promise<void>((resolve) => {
          goOn = resolve
        })
      }
      connection.send('ok')
    },
    { requestTimeoutMs: 10_000 },
  )
  server.receive(post(400_000))
  server.advance(4000)
  for (let n = 0; n < 3; n++) server.receive(Buffer.alloc(100_000))
  await nextTurn()
  assert.is(server.socket.isReading, false)
  server.advance(60_000)
  while (!server.socket.isReading) {
    goOn()
    await nextTurn()
  }
  server.advance(5900)
  assert.equal([shown(server.written()), server.errors], ['', []])
  server.advance(100)
  assert.equal(statusOf(shown(server.written())), 408)
})

/** Reads a piece, answers with 415, and never comes back for the rest: `reader` is the one it has left. */
function abandoned(later: () => unknown = () => undefined, settings: HttpSettings = {}) {
  const left: { reader: AsyncIterator<Buffer> | null } = { reader: null }
  const server = serve(async (connection, request) => {
    if (request.method === 'GET') return connection.send('next')
    left.reader = request.body[Symbol.asyncIterator]()
    await left.reader.next()
    connection.send(new Response(415, {}, 'only PNG'))
    await later()
  }, settings)
  return { server, left }
}

/** Sends so much of a body that reading it pauses. */
async function fill(server: Wire<Request, unknown>): Promise<void> {
  server.receive(post(1_000_000))
  for (let n = 0; n < 100 && server.socket.isReading; n++) {
    server.receive(Buffer.alloc(10_000))
    await nextTurn()
  }
  assert.is(server.socket.isReading, false)
  assert.is(statusOf(shown(server.written())), 415)
}

test('a body that its reader has left unread ends its connection 30 s after the answer, or 5 s if the worker leaves', async () => {
  for (const [ms, begin] of [
    [30_000, () => undefined],
    [5000, (server: Wire<Request, unknown>) => server.goodbye()],
  ] as const) {
    const { server, left } = abandoned()
    await fill(server)
    server.receive(wire(GET)) // of a client that goes at once: we pause, and do not hear of that
    server.end()
    begin(server)
    server.advance(ms - 1)
    assert.is(server.connection.getStatus(false), 'ESTABLISHED')
    server.advance(1000)
    await until(() => server.connection.getStatus(false) === 'CLOSED')
    assert.equal([shown(server.written()), server.errors], ['', []])
    const next = left.reader?.next().then(() => 'bytes', codeOf)
    assert.is(await next, 'ERR_BODY_DISCARDED')
  }
})

/** A chunked body of that many bytes, without its end. */
const chunks = (size: number) => Buffer.concat([wire(`${size.toString(16)}¶`), Buffer.alloc(size), wire('¶')])
const CHUNKED = 'POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶'

/** Answers without reading; a body whose path is `/looks` after a look at its beginning. */
const inattentive = async (connection: Connection<Request, unknown>, { method, path, body }: Request) => {
  if (method === 'GET') return connection.send('next')
  if (path !== '/looks') return connection.send('early')
  for await (const _ of body) {
    connection.send('early')
    break
  }
}

test('an answer that does not say close is kept: the rest of its body is discarded, whatever its length', async () => {
  for (const [head, rest] of [
    [wire(CHUNKED), Buffer.concat([chunks(150_000), chunks(150_000), wire('0¶¶')])],
    [wire(CHUNKED.replace('/', '/looks')), Buffer.concat([chunks(150_000), chunks(150_000), wire('0¶¶')])],
    [wire('POST /looks HTTP/1.1¶Host: h¶Content-Length: 300000¶¶'), Buffer.alloc(299_990)],
  ] as const) {
    const server = serve(inattentive, { maxBodyBytes: head.includes('Length') ? 300_000 : 100_000 })
    const begin = head.includes('chunked') ? chunks(10) : Buffer.alloc(10)
    server.receive(Buffer.concat([head, begin]))
    assert.match(await writtenBy(server, (all) => all.endsWith('early')), /^HTTP\/1\.1 200 (?!.*Connection: close)/)
    for (let at = 0; at < rest.length; at += 50_000) server.receive(rest.subarray(at, at + 50_000))
    server.receive(wire(GET))
    assert.match(await writtenBy(server, (all) => all.endsWith('next')), /^HTTP\/1\.1 200 /)
    server.advance(50_000) // no time runs any more but that of an idle connection
    assert.equal([server.connection.getStatus(false), server.errors], ['ESTABLISHED', []])
  }
})

test('what is known to be long when the answer begins is not discarded: the answer says that the connection ends', async () => {
  for (const head of [post(300_000), wire(CHUNKED)]) {
    const server = serve(async (connection, request) => {
      if (head.includes('chunked')) await until(() => request.body.weight > 66_000)
      connection.send('early')
    })
    server.receive(head)
    server.receive(head.includes('chunked') ? chunks(70_000) : Buffer.alloc(10))
    assert.match(await writtenBy(server, (all) => all !== ''), /Connection: close/)
    await until(() => server.socket.hasEnded)
    assert.equal(server.errors, [])
  }
})

test('a body without an end is discarded for 30 s, or 5 s if the worker leaves, and then the connection ends', async () => {
  for (const [seconds, begin] of [
    [30, () => undefined],
    [5, (server: Wire<Request, unknown>) => server.goodbye()],
  ] as const) {
    const server = serve(inattentive)
    server.receive(wire(CHUNKED))
    await writtenBy(server, (all) => all.endsWith('early'))
    begin(server)
    for (let second = 1; second < seconds; second++) {
      server.receive(chunks(10_000))
      server.advance(1000)
      assert.is(server.socket.hasEnded, false)
    }
    server.advance(2000) // distant deadlines are coarse
    await until(() => server.socket.hasEnded)
    assert.equal([shown(server.written()), server.errors], ['', []])
  }
})

test('a client that gives up a body whose answer is complete is at no fault, and has that answer', async () => {
  for (const size of [10, 150_000]) {
    const server = serve((connection) => connection.send('B'.repeat(600_000)))
    server.hold()
    server.receive(Buffer.concat([wire(CHUNKED), chunks(10)]))
    server.receive(chunks(size))
    server.end()
    server.drain()
    const answer = await writtenBy(server, (all) => all.endsWith('B'.repeat(100)))
    assert.is(answer.split('¶¶')[1]?.length, 600_000)
    await until(() => server.connection.getStatus(false) === 'CLOSED')
    assert.equal([server.errors, server.connection.closeReason], [[], 'closed'])
  }
})

test('who takes the rest of a body slowly after its answer, or is still at work, is no such reader', async () => {
  const slow = abandoned()
  await fill(slow.server)
  for (let n = 0; n < 5; n++) {
    slow.server.advance(29_000)
    await slow.left.reader?.next()
  }
  assert.is(slow.server.connection.getStatus(false), 'ESTABLISHED')
  let settle: () => void = () => undefined
  const busy = abandoned(
    () =>
      new Promise<void>((resolve) => {
        settle = resolve
      }),
  )
  await fill(busy.server)
  busy.server.advance(600_000)
  assert.is(busy.server.connection.getStatus(false), 'ESTABLISHED')
  settle()
  await nextTurn()
  busy.server.advance(60_000)
  assert.is(busy.server.connection.getStatus(false), 'CLOSED')
})

test('an early answer that is large is followed by FIN when it has left, and what comes behind the body is no fault', async () => {
  for (const behind of ['', 'GET /next HTTP/1.1¶Host: h¶¶', 'no head¶', 'GET']) {
    const server = serve((connection) => connection.send('B'.repeat(600_000)))
    server.hold()
    server.receive(Buffer.concat([post(100_000), Buffer.alloc(100_000, 'z'), wire(behind)]))
    server.drain()
    await nextTurn()
    assert.is(server.socket.hasEnded, true, behind)
    assert.match(shown(server.written()), /^HTTP\/1\.1 200 OK¶[^B]*B{600000}$/, behind)
    assert.equal(server.errors, [], behind)
  }
})

test('who waits for 100 Continue is not blamed for the time that its handler takes', async () => {
  const asking = (settings: HttpSettings = {}) => {
    let read: () => void = () => assert.unreachable()
    const server = serve(async (connection, request) => {
      await new Promise<void>((resolve) => {
        read = resolve
      })
      let size = 0
      for await (const bytes of request.body) size += bytes.length
      connection.send(`got ${size}`)
    }, settings)
    return { server, read: () => read() }
  }
  const { server, read } = asking()
  server.receive(post(5, 'Expect: 100-continue¶'))
  server.advance(400_000)
  assert.equal([shown(server.written()), server.errors], ['', []])
  read()
  await until(() => shown(server.written()) === 'HTTP/1.1 100 Continue¶¶')
  server.advance(29_000)
  server.receive('hello')
  await until(() => shown(server.written()).endsWith('got 5'))
  const silent = asking()
  silent.server.receive(post(5, 'Expect: 100-continue¶'))
  silent.server.advance(40_000)
  silent.read()
  await until(() => shown(silent.server.written()) === 'HTTP/1.1 100 Continue¶¶')
  silent.server.advance(29_000)
  assert.is(shown(silent.server.written()), '')
  silent.server.advance(2000)
  assert.is(statusOf(shown(silent.server.written())), 408, 'its own silence is')
  const slow = asking({ answerTimeoutMs: 60_000 })
  slow.server.receive(post(5, 'Expect: 100-continue¶'))
  slow.server.advance(59_000)
  assert.is(shown(slow.server.written()), '')
  slow.server.advance(2000)
  assert.is(statusOf(shown(slow.server.written())), 503)
  const unasked = asking()
  unasked.server.receive(post(5, 'Expect: 100-continue¶'))
  unasked.server.receive('hel')
  unasked.server.advance(31_000)
  assert.is(statusOf(shown(unasked.server.written())), 408, 'who begins all the same must go on')
})

test('who reads a body behind its answer takes nothing from the next request: that hears 100 when it is read, too', async () => {
  const [first, second] = [deferred(), deferred()]
  const work = [first, second]
  const server = serve(async (connection, request) => {
    const isFirst = server.messages.length === 1
    await nextTurn() // the body of the first has come
    if (isFirst) connection.send('first')
    await work[server.messages.length - 1]?.promise
    let size = 0
    for await (const bytes of request.body) size += bytes.length
    if (!isFirst) connection.send(`got ${size}`)
  })
  server.receive(Buffer.concat([post(5), wire('hello')]))
  await until(() => server.connection.bytesWritten > 0)
  server.receive(post(7, 'Expect: 100-continue¶'))
  first.resolve()
  await until(() => server.messages.length === 2)
  server.advance(40_000)
  assert.match(shown(server.written()), /^HTTP\/1\.1 200 OK¶.*¶¶first$/)
  second.resolve()
  await writtenBy(server, (text) => text === 'HTTP/1.1 100 Continue¶¶')
  server.receive('goodbye')
  await writtenBy(server, (text) => text.endsWith('got 7'))
  assert.equal(server.errors, [])
})

/** Answers with this status, in pieces of the two kinds, and reads the body behind the head. */
const PIECEMEAL: Record<string, (status: number) => Handler> = {
  'an open answer':
    (status) =>
    async (connection, { body }) => {
      connection.send(new Response(status, { 'Transfer-Encoding': 'chunked' }, 'begun '))
      let size = 0
      for await (const bytes of body) size += bytes.length
      connection.send(`got ${size}`)
      connection.send(new Chunk(''))
    },
  'a generator':
    (status) =>
    (connection, { body }) => {
      async function* pieces() {
        yield 'begun '
        let size = 0
        for await (const bytes of body) size += bytes.length
        yield `got ${size}`
      }
      connection.send(new Response(status, {}, pieces()))
    },
}

for (const [what, handler] of Object.entries(PIECEMEAL)) {
  test(`Expect: who waits hears 100 before ${what}, behind which there is none`, async () => {
    const server = serve(handler(200))
    server.receive(post(5, 'Expect: 100-continue¶'))
    const begun = await writtenBy(server, (text) => text.includes('begun'))
    assert.match(begun, /^HTTP\/1\.1 100 Continue¶¶HTTP\/1\.1 200 OK¶/)
    assert.not.match(begun, /Connection: close/)
    server.receive(Buffer.concat([Buffer.from('hello'), wire(GET)]))
    const rest = await writtenBy(server, (text) => text.includes('begun'))
    assert.match(rest, /^5¶got 5¶0¶¶HTTP\/1\.1 200 OK¶/)
    const silent = serve(handler(200))
    silent.receive(post(5, 'Expect: 100-continue¶'))
    await writtenBy(silent, (text) => text.includes('begun'))
    silent.advance(31_000)
    await until(() => silent.errors.length > 0)
    assert.is(silent.errors[0]?.message, 'the request did not come in time')
  })

  test(`Expect: no 100 before ${what} that refuses, whose reader does not wait for ever`, async () => {
    const server = serve(handler(403))
    server.receive(post(5, 'Expect: 100-continue¶'))
    assert.match(await writtenBy(server, (text) => text.includes('begun')), /^HTTP\/1\.1 403 /)
    await nextTurn() // it reads
    server.advance(29_000)
    assert.is(server.connection.getStatus(false), 'ESTABLISHED')
    server.advance(2000)
    await until(() => server.errors.length > 0)
    assert.is(server.errors[0]?.message, 'the request did not come in time')
  })
}

test('a refusal of who waits for 100 Continue may take as long as it likes', async () => {
  const server = serve((connection) =>
    connection.send(
      new Response(
        403,
        {},
        (async function* () {
          yield 'begun'
          await new Promise(() => undefined)
        })(),
      ),
    ),
  )
  server.receive(post(5, 'Expect: 100-continue¶'))
  await writtenBy(server, (text) => text.includes('begun'))
  server.advance(400_000)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
})

test('however small its chunks, what one read has brought is one piece', async () => {
  const chunks = '1¶x¶'.repeat(2_000)
  for (const [behind, end] of [
    ['0¶¶', 'whole'],
    ['none¶', 'ERR_BAD_CHUNK'],
  ] as const) {
    const pieces: number[] = []
    let ended = ''
    const server = serve(async (connection, request) => {
      try {
        for await (const bytes of request.body) pieces.push(bytes.length)
        ended = 'whole'
      } catch (error) {
        ended = codeOf(error)
      }
      connection.send('read')
    })
    server.receive(wire('POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶1¶x'))
    await until(() => pieces.length === 1)
    server.receive(wire(`¶${chunks}`))
    await until(() => pieces.length > 1)
    server.receive(wire(`${chunks}${behind}`))
    await until(() => ended !== '')
    assert.equal([pieces, ended], [[1, 2_000, 2_000], end])
  }
})

test.run()
