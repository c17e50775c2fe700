// Sessions: ids that nobody can choose, stores, cookies; and lines of the access log that nobody can forge.

import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf } from '../../src/errors.ts'
import { formatCombined, formatJson } from '../../src/http/access-log.ts'
import type { StoredSession } from '../../src/http/session.ts'
import { FileSessionStore, MemorySessionStore, type SessionStore } from '../../src/http/session-store.ts'
import { Sessions } from '../../src/http/sessions.ts'
import { formatText, sendLogTo } from '../../src/log.ts'
import { rejects, until } from '../support/until.ts'

async function withStores(use: (store: SessionStore, directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-sessions-'))
  await use(new MemorySessionStore(), directory)
  await use(new FileSessionStore(directory), directory)
  rmSync(directory, { recursive: true })
}

const idIn = (line: string | null) => /^sid=([^;]*)/.exec(line ?? '')?.[1] ?? ''

test('data comes back with the cookie, and only what has changed is stored', async () => {
  await withStores(async (store) => {
    const sessions = new Sessions({ store })
    const first = await sessions.load({})
    assert.is(await sessions.commit(first, true), null, 'nothing is set: no cookie')
    first.put({ user: 7, flash: 'hi' })
    const line = await sessions.commit(first, true)
    assert.match(line ?? '', /^sid=[\w-]{43}; Max-Age=1800; Path=\/; SameSite=Lax; Secure; HttpOnly$/)
    const second = await sessions.load({ sid: idIn(line) })
    assert.equal(
      [second.get('user'), second.pull('flash'), second.pull('flash'), second.has('flash')],
      [7, 'hi', undefined, false],
    )
    await sessions.commit(second, true)
    const third = await sessions.load({ sid: idIn(line) })
    assert.equal({ ...third.all() }, { user: 7 })
    assert.is(await sessions.commit(third, true), null)
    third.flush()
    assert.match((await sessions.commit(third, false)) ?? '', /^sid=; Max-Age=0; /)
    assert.is((await sessions.load({ sid: idIn(line) })).isNew, true)
  })
})

test('a value that is changed in place is stored, and one that is only read is not', async () => {
  await withStores(async (kept) => {
    let writes = 0
    const store: SessionStore = {
      read: (id) => kept.read(id),
      write: (...args) => kept.write(...args),
      destroy: (id) => kept.destroy(id),
      replace: async (...args) => {
        writes++
        return (await kept.replace?.(...args)) === true
      },
    }
    const sessions = new Sessions({ store })
    const first = await sessions.load({})
    first.put({ cart: [{ id: 1 }], user: 7 })
    const sid = idIn(await sessions.commit(first, false))
    const visits: [change: (session: StoredSession) => unknown, cart: unknown][] = [
      [(session) => (session.get('cart') as unknown[]).push({ id: 2 }), [{ id: 1 }, { id: 2 }]],
      [(session) => Object.assign((session.get('cart') as object[])[0] as object, { id: 3 }), [{ id: 3 }, { id: 2 }]],
      [(session) => (session.all().cart as unknown[]).pop(), [{ id: 3 }]],
      [(session) => [session.get('cart'), session.get('user'), session.all()], [{ id: 3 }]],
    ]
    for (const [change, cart] of visits) {
      const session = await sessions.load({ sid })
      change(session)
      await sessions.commit(session, false)
      assert.equal((await kept.read(sid))?.cart, cart)
    }
    assert.is(writes, 3)
  })
})

test('a session lives for its lifetime after any request, also one that did not store it anew', async () => {
  const { now } = Date
  let seconds = now() / 1000
  Date.now = () => seconds * 1000
  try {
    await withStores(async (store) => {
      const sessions = new Sessions({ store })
      const session = await sessions.load({})
      session.set('user', 7)
      const line = await sessions.commit(session, false)
      const sid = idIn(line)
      const keptFor = Number(/Max-Age=(\d+)/.exec(line ?? '')?.[1])
      seconds += 359
      assert.is(await sessions.commit(await sessions.load({ sid }), false), null) // stored a moment ago
      seconds += 1439
      assert.is((await sessions.load({ sid })).get('user'), 7)
      assert.ok(keptFor > 359 + 1439, 'the browser still sends its cookie')
      seconds += 3
      assert.is((await sessions.load({ sid })).isNew, true) // and not much longer
    })
  } finally {
    Date.now = now
  }
})

test('an id that we did not give is never taken', async () => {
  await withStores(async (store) => {
    const sessions = new Sessions({ store })
    for (const sid of ['A'.repeat(43), '../../etc/passwd', '', 'x'.repeat(5000), '__proto__']) {
      const session = await sessions.load({ sid })
      assert.is(session.isNew, true)
      assert.is.not(session.getId(), sid)
    }
  })
})

test('another id at a login, and the old one is worth nothing', async () => {
  await withStores(async (store) => {
    const sessions = new Sessions({ store })
    const session = await sessions.load({})
    session.set('a', 1)
    const old = idIn(await sessions.commit(session, false))
    const again = await sessions.load({ sid: old })
    again.regenerate()
    const now = idIn(await sessions.commit(again, false))
    assert.is.not(now, old)
    assert.is((await sessions.load({ sid: now })).get('a'), 1)
    assert.is((await sessions.load({ sid: old })).isNew, true)
  })
})

/** A store of somebody who wrote it before there were `touch` and `replace`. */
function plain(store: SessionStore): SessionStore {
  return {
    read: (id) => store.read(id),
    write: (id, data, ttl) => store.write(id, data, ttl),
    destroy: (id) => store.destroy(id),
  }
}

test('a session that is only read lives on with what others have written, and not after they have removed it', async () => {
  await withStores(async (own) => {
    for (const store of [own, plain(own)]) {
      const [here, there] = [new Sessions({ store }), new Sessions({ store })] // two processes
      const first = await here.load({})
      first.set('n', 1)
      const sid = idIn(await here.commit(first, false))
      const stale = await there.load({ sid })
      const change = await here.load({ sid })
      change.set('n', 2)
      await here.commit(change, false)
      assert.is(idIn(await there.commit(stale, false)), sid, 'due: its process has not seen it before')
      assert.equal(await store.read(sid), { n: 2 })
      for (const touch of [() => undefined, (session: StoredSession) => session.set('m', 1)])
        for (const end of [
          (session: StoredSession) => session.flush(),
          (session: StoredSession) => session.regenerate(),
        ]) {
          const session = await here.load({})
          session.set('n', 1)
          const old = idIn(await here.commit(session, false))
          const reader = await new Sessions({ store }).load({ sid: old })
          touch(reader)
          const leaving = await here.load({ sid: old })
          end(leaving)
          await here.commit(leaving, false)
          assert.is(await there.commit(reader, false), null)
          assert.is(await store.read(old), null)
        }
    }
  })
})

test('a new id revives nothing that was logged out, or got another id, meanwhile', async () => {
  await withStores(async (own) => {
    for (const store of [own, plain(own)])
      for (const end of [
        (session: StoredSession) => session.flush(),
        (session: StoredSession) => session.regenerate(),
      ]) {
        const [here, there] = [new Sessions({ store }), new Sessions({ store })] // two processes
        const first = await here.load({})
        first.set('user', 'ann')
        const sid = idIn(await here.commit(first, false))
        const late = await here.load({ sid })
        const leaving = await there.load({ sid })
        end(leaving)
        await there.commit(leaving, false)
        const id = late.regenerate()
        assert.is(await here.commit(late, false), null)
        assert.equal([await store.read(sid), await store.read(id)], [null, null])
      }
  })
})

test('a new id that cannot be stored, or whose session is logged out in that moment, leaves nothing half done', async () => {
  const own = new MemorySessionStore()
  let write: SessionStore['write'] = (id, data, ttl) => own.write(id, data, ttl)
  const store: SessionStore = { ...plain(own), write: (id, data, ttl) => write(id, data, ttl) }
  const sessions = new Sessions({ store })
  const first = await sessions.load({})
  first.set('user', 'ann')
  const sid = idIn(await sessions.commit(first, false))
  const failing = await sessions.load({ sid })
  failing.regenerate()
  write = () => Promise.reject(new Error('the disk is full'))
  await sessions.commit(failing, false).then(
    () => assert.unreachable(),
    (error) => assert.match(error.message, 'full'),
  )
  assert.equal(await own.read(sid), { user: 'ann' })
  const raced = await sessions.load({ sid })
  const id = raced.regenerate()
  write = async (...args) => {
    await own.write(...args)
    await own.destroy(sid) // the logout
  }
  assert.is(await sessions.commit(raced, false), null)
  assert.is(await own.read(id), null)
})

test('touch and replace change what is there, and nothing else', async () => {
  await withStores(async (store) => {
    assert.equal([await store.touch?.('a', 100), await store.replace?.('a', { x: 1 }, 100)], [false, false])
    assert.is(await store.read('a'), null)
    await store.write('a', { x: 1 }, 10)
    assert.is(await store.touch?.('a', 100), true)
    const { now } = Date
    Date.now = () => now() + 50_000
    const later = await store.read('a')
    Date.now = now
    assert.equal(later, { x: 1 })
    assert.is(await store.replace?.('a', { x: 2 }, 100), true)
    assert.equal(await store.read('a'), { x: 2 })
    await store.write('over', { x: 1 }, -1)
    assert.equal([await store.touch?.('over', 100), await store.replace?.('over', {}, 100)], [false, false])
  })
})

/** A store in plain JavaScript, on a Map: what is not there is undefined. */
function careless(): { readonly store: SessionStore; readonly kept: Map<string, unknown> } {
  const kept = new Map<string, unknown>()
  const store = {
    read: async (id: string) => kept.get(id),
    write: async (id: string, data: object) => void kept.set(id, { ...data }),
    destroy: async (id: string) => void kept.delete(id),
  }
  return { store: store as SessionStore, kept }
}

test('a store that says undefined for an unknown id: a made-up one is not taken, a logged-out one not revived', async () => {
  const { store, kept } = careless()
  const sessions = new Sessions({ store })
  const sid = 'A'.repeat(43)
  const forged = await sessions.load({ sid })
  forged.set('user', 'victim')
  const id = idIn(await sessions.commit(forged, false))
  assert.equal([forged.isNew, id === sid, kept.has(sid)], [true, false, false])
  for (const change of [
    (session: StoredSession) => session.set('cart', 1),
    (session: StoredSession) => session.regenerate(),
  ]) {
    const session = await sessions.load({ sid: id })
    assert.is(session.get('user'), 'victim')
    change(session)
    kept.delete(id) // by a logout, meanwhile
    assert.is(await sessions.commit(session, false), null)
    assert.is(kept.size, 0)
    kept.set(id, { user: 'victim' })
  }
})

test('what a store reads is an object: a text does not become a session of characters', async () => {
  const { store, kept } = careless()
  for (const data of ['{"user":7}', 7, true, [7]]) {
    kept.set('A'.repeat(43), data)
    await rejects(new Sessions({ store }).load({ sid: 'A'.repeat(43) }), 'ERR_BAD_OPTION')
  }
})

test('signed cookies: a guess is refused without a look at the store, and secrets can change', async () => {
  const store = new MemorySessionStore()
  const old = new Sessions({ store, secrets: ['one'] })
  const session = await old.load({})
  session.set('a', 1)
  const sid = idIn(await old.commit(session, false))
  const renewed = new Sessions({ store, secrets: ['two', 'one'] })
  assert.is((await renewed.load({ sid })).get('a'), 1)
  assert.is((await new Sessions({ store, secrets: ['two'] }).load({ sid })).isNew, true)
  assert.is((await renewed.load({ sid: sid.split('.')[0] as string })).isNew, true)
})

test('what is over is over, and swept', async () => {
  await withStores(async (store, directory) => {
    await store.write('a', { x: 1 }, -1)
    assert.is(await store.read('a'), null)
    if (!(store instanceof FileSessionStore)) return
    await store.write('b', { x: 1 }, 100)
    await store.sweep()
    assert.is(readdirSync(directory).length, 1)
  })
})

test('a sweep removes no session that it cannot read, and goes on with the others', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-sessions-'))
  const store = new FileSessionStore(directory)
  await store.write('live', { x: 1 }, 100)
  await store.write('over', { x: 1 }, -1)
  const [unreadable, cut, cutLongAgo] = ['0', '1', '2'].map((digit) => digit.repeat(64)) as [string, string, string]
  symlinkSync(unreadable, join(directory, unreadable)) // ELOOP, for root, too; EMFILE and EIO are met in the same way
  writeFileSync(join(directory, cut), '')
  writeFileSync(join(directory, cutLongAgo), '')
  utimesSync(join(directory, cutLongAgo), 1, 1)
  await rejects(store.sweep(), 'ELOOP')
  assert.equal(await store.read('live'), { x: 1 })
  const left = readdirSync(directory).sort()
  assert.equal([left.slice(0, 2), left.length], [[unreadable, cut], 3])
  rmSync(directory, { recursive: true })
})

test('a sweep removes what killed processes have left of their writing, whatever its time, when it is a day old', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-sessions-'))
  const store = new FileSessionStore(directory)
  await store.write('live', { x: 1 }, 100_000)
  const [name = ''] = readdirSync(directory)
  const names = [`${name}.0123456789abcdef`, `${name}.fedcba9876543210`, `${name}.other`]
  for (const one of names) writeFileSync(join(directory, one), readFileSync(join(directory, name)))
  for (const one of names.slice(1)) utimesSync(join(directory, one), Date.now() / 1000, Date.now() / 1000 - 86_500)
  assert.is(await store.sweep(), 1)
  assert.equal(readdirSync(directory).sort(), [name, names[0], names[2]].sort())
  rmSync(directory, { recursive: true })
})

test('no visitor waits for a sweep, nor hears that it failed, and there is one at a time', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-sessions-'))
  let fail: (error: Error) => void = () => undefined
  let sweeps = 0
  class Slow extends FileSessionStore {
    override sweep(): Promise<number> {
      sweeps++
      return new Promise((_resolve, reject) => {
        fail = reject
      })
    }
  }
  const store = new Slow(directory)
  const lines: string[] = []
  sendLogTo((line) => lines.push(line))
  try {
    for (let n = 0; n < 20; n++)
      await Promise.all(Array.from({ length: 100 }, (_, index) => store.write(`${index}`, { n }, 100)))
    assert.is(sweeps, 1)
    fail(new Error('EMFILE: too many open files'))
    await until(() => lines.length > 0)
    assert.match(lines[0] ?? '', /sessions.*EMFILE/)
  } finally {
    sendLogTo(null)
  }
  rmSync(directory, { recursive: true })
})

test('what JSON cannot hold is the fault of who has set it, in every store', async () => {
  await withStores(async (store, directory) => {
    await rejects(store.write('a', { n: 10n }, 100), 'ERR_ENCODE')
    assert.equal(readdirSync(directory), [])
    await store.write('a', {}, 100)
    await rejects(store.replace?.('a', { n: 10n }, 100) as Promise<boolean>, 'ERR_ENCODE')
    assert.equal(await store.read('a'), {})
  })
})

test('files: private, named by a hash, and a cut one is as none', async () => {
  const directory = join(mkdtempSync(join(tmpdir(), 'millrace-sessions-')), 'made')
  const store = new FileSessionStore(directory)
  await store.write('the-id', { x: 1 }, 100)
  const [name = ''] = readdirSync(directory)
  assert.match(name, /^[0-9a-f]{64}$/)
  assert.equal([statSync(directory).mode & 0o777, statSync(join(directory, name)).mode & 0o777], [0o700, 0o600])
  assert.not.match(readFileSync(join(directory, name), 'utf8'), /the-id/)
  writeFileSync(join(directory, name), '{"until":99999999')
  assert.is(await store.read('the-id'), null)
  await new FileSessionStore('/tmp').write('a', {}, 1).then(
    () => assert.unreachable(),
    (error) => assert.is(codeOf(error), 'ERR_NOT_PRIVATE'),
  )
  rmSync(join(directory, '..'), { recursive: true })
})

test('a folder that could not be had is asked for again: it may have been mended', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-sessions-'))
  const path = join(directory, 'sessions')
  writeFileSync(path, 'a file is in the way')
  const store = new FileSessionStore(path)
  await store.write('a', { x: 1 }, 100).then(
    () => assert.unreachable(),
    (error) => assert.ok(error instanceof Error),
  )
  rmSync(path)
  await store.write('a', { x: 1 }, 100)
  assert.equal(await store.read('a'), { x: 1 })
  rmSync(directory, { recursive: true })
})

test('a folder that is removed is made again, as if all had been logged out', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-sessions-'))
  const store = new FileSessionStore(join(directory, 'sessions'))
  await store.write('a', { x: 1 }, 100)
  rmSync(directory, { recursive: true })
  assert.equal(
    [await store.read('a'), await store.touch('a', 100), await store.replace('a', {}, 100)],
    [null, false, false],
  )
  await Promise.all(['b', 'c', 'd'].map((id) => store.write(id, { x: 2 }, 100)))
  assert.equal([await store.read('b'), await store.read('d')], [{ x: 2 }, { x: 2 }])
  assert.is(statSync(join(directory, 'sessions')).mode & 0o777, 0o700)
  rmSync(directory, { recursive: true })
})

test('a store in memory is bounded', async () => {
  const store = new MemorySessionStore({ maxSessions: 2 })
  for (const id of ['a', 'b', 'c']) await store.write(id, { id }, 100)
  assert.equal([await store.read('a'), await store.read('c')], [null, { id: 'c' }])
})

test('no client begins a line of the log, or ends a field', () => {
  const entry = {
    at: new Date('2026-11-24T12:00:00Z'),
    remoteIp: '1.2.3.4',
    method: 'GET',
    target: '/"\\\n\u010a',
    version: '1.1',
    status: 200,
    bytes: 5,
    durationMs: 1,
    referer: '',
    userAgent: 'a"b\r\n1.2.3.5 - -',
  }
  assert.is(
    formatCombined(entry),
    String.raw`1.2.3.4 - - [24/Nov/2026:12:00:00 +0000] "GET /\x22\x5c\x0a\x10a HTTP/1.1" 200 5 "-" "a\x22b\x0d\x0a1.2.3.5 - -"`,
  )
  assert.equal(JSON.parse(formatJson(entry)).userAgent, entry.userAgent)
  assert.not.match(formatJson(entry), /\n/)
  for (const userAgent of ['evil\u009b31m\u0085', '\x1b[31m\x7f', '\u2028']) {
    const logged = formatText(entry.at, 1, '', formatJson({ ...entry, userAgent }))
    assert.is(JSON.parse(logged.slice(logged.indexOf('{'))).userAgent, userAgent)
  }
  const line = (method: string, target: string) =>
    /(?<=] ").*?(?=" 200)/.exec(formatCombined({ ...entry, method, target, version: '-' }))?.[0]
  assert.equal([line('-', '-'), line('GET', '-'), line('GET', '/')], ['-', 'GET', 'GET / HTTP/-'])
})

test.run()
