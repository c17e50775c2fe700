// The visitor's session in a handshake on a port that is shared with HTTP, in memory.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request } from '../../../protocols/http/request.ts'
import { Response } from '../../../protocols/http/response.ts'
import type { SessionSource } from '../../../protocols/http/settings.ts'
import { websocket } from '../../../protocols/websocket/websocket.ts'
import { codeOf } from '../../../src/errors.ts'
import { MemorySessionStore } from '../../../src/http/session-store.ts'
import { Sessions } from '../../../src/http/sessions.ts'
import { open } from '../../../src/testing.ts'
import { httpInMemory, shown, wire } from '../../support/http.ts'
import { until } from '../../support/until.ts'

type Welcome = (connection: unknown, request: Request, response: Response) => unknown

function serve(sessions: SessionSource | null, onWebSocketConnect: Welcome) {
  const protocol = httpInMemory({ websocket: websocket(), sessions })
  return open(protocol, { onWebSocketConnect })
}

async function answerOf(server: ReturnType<typeof serve>, cookie = ''): Promise<string> {
  server.receive(
    wire(
      `GET /chat HTTP/1.1¶Host: h¶Upgrade: websocket¶Connection: Upgrade¶Sec-WebSocket-Version: 13¶Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==¶Cookie: ${cookie}¶¶`,
    ),
  )
  let text = ''
  await until(() => {
    text += shown(server.written())
    return text !== ''
  })
  return text
}

const sidIn = (text: string | null) => /sid=([^;]+)/.exec(text ?? '')?.[1] ?? ''

/** Sessions, and the cookie of one that knows its visitor. */
async function withVisitor() {
  const store = new MemorySessionStore()
  const sessions = new Sessions({ store })
  const session = await sessions.load({})
  session.set('name', 'ann')
  return { store, sessions, sid: sidIn(await sessions.commit(session, false)) }
}

test('a handshake knows its visitor, and its answer renews the cookie of the session', async () => {
  const { store, sid } = await withVisitor()
  const here = new Sessions({ store }) // of a process that has not seen the session before
  const knows: Welcome = async (_connection, request) => (await request.session()).get('name') === 'ann'
  const known = await answerOf(serve(here, knows), `sid=${sid}`)
  assert.match(known, /^HTTP\/1\.1 101 /)
  assert.is(sidIn(known), sid)
  assert.match(await answerOf(serve(here, knows)), /^HTTP\/1\.1 403 (?!.*Set-Cookie)/)
  assert.match(
    await answerOf(
      serve(here, () => true),
      `sid=${sid}`,
    ),
    /^HTTP\/1\.1 101 (?!.*Set-Cookie)/,
  )
})

test('what a handshake changes is stored before its answer, be that 101 or a Response', async () => {
  for (const [answer, status] of [
    [() => undefined, 101],
    [() => new Response(302, { Location: '/login' }), 302],
    [(response: Response) => response.withStatus(409), 409],
  ] as const) {
    const { store, sessions, sid } = await withVisitor()
    const server = serve(sessions, async (_connection, request, response) => {
      const session = await request.session()
      session.regenerate()
      session.set('seen', true)
      return answer(response)
    })
    const text = await answerOf(server, `sid=${sid}`)
    assert.match(text, new RegExp(`^HTTP/1\\.1 ${status} `))
    assert.equal(await store.read(sidIn(text)), { name: 'ann', seen: true })
    assert.is(await store.read(sid), null)
    assert.equal(server.errors, [])
  }
})

test('a Response that turns away several visitors tells none of them the cookie of another', async () => {
  const { store, sid } = await withVisitor()
  const refusal = new Response(403, { 'Set-Cookie': 'theme=dark' }, 'admins only')
  const refuses: Welcome = async (_connection, request) => ((await request.session()).get('admin') ? true : refusal)
  const here = () => serve(new Sessions({ store }), refuses) // of a process that has not seen the session before
  assert.match(await answerOf(here(), `sid=${sid}`), new RegExp(`Set-Cookie: theme=dark¶Set-Cookie: sid=${sid};`))
  assert.is(sidIn(await answerOf(here())), '')
  assert.is(refusal.getHeader('Set-Cookie'), 'theme=dark')
})

test('who is not admitted changes nothing, since the answer cannot say so', async () => {
  for (const [said, status] of [
    [false, 403],
    ['no verdict', 500],
  ] as const) {
    const { store, sessions, sid } = await withVisitor()
    const server = serve(sessions, async (_connection, request) => {
      const session = await request.session()
      session.regenerate()
      return said
    })
    assert.match(await answerOf(server, `sid=${sid}`), new RegExp(`^HTTP/1\\.1 ${status} (?!.*Set-Cookie)`))
    assert.equal(await store.read(sid), { name: 'ann' })
  }
})

test('a session that cannot be loaded or stored is a 500 and told once; a user that catches the former decides', async () => {
  const full: SessionSource = {
    load: async (cookies) => (await new Sessions({ store: new MemorySessionStore() })).load(cookies),
    commit: () => Promise.reject(new Error('the disk is full')),
  }
  const away: SessionSource = { ...full, load: () => Promise.reject(new Error('the store is away')) }
  const asks: Welcome = async (_connection, request) => void (await request.session())
  for (const [source, message] of [
    [full, 'the disk is full'],
    [away, 'the store is away'],
  ] as const) {
    const server = serve(source, asks)
    assert.match(await answerOf(server), /^HTTP\/1\.1 500 /)
    assert.equal(
      server.errors.map((error) => error.message),
      [message],
    )
  }
  const catching: Welcome = (_connection, request) =>
    request.session().then(
      () => false,
      () => true,
    )
  assert.match(await answerOf(serve(away, catching)), /^HTTP\/1\.1 101 /)
})

test('without sessions, and when the handshake is over, there is none: the error says what is to be done', async () => {
  for (const [sessions, code] of [
    [null, 'ERR_NO_SESSIONS'],
    [new Sessions({ store: new MemorySessionStore() }), 'ERR_TOO_LATE'],
  ] as const) {
    const asked: Request[] = []
    await answerOf(serve(sessions, (_connection, request) => void asked.push(request)))
    assert.throws(
      () => asked[0]?.session(),
      (error: Error) => codeOf(error) === code && /load\(request\.cookies\)/.test(error.message),
    )
  }
})

test.run()
