// Files as answers: conditions, ranges, paths that try to leave, files that change; and no descriptor is left open.

import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { type FileHandle, open as openHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codingFor } from '../../protocols/http/codings.ts'
import { Response } from '../../protocols/http/response.ts'
import type { HttpSettings } from '../../protocols/http/settings.ts'
import { codeOf } from '../../src/errors.ts'
import { parseHttpDate } from '../../src/http/date.ts'
import { type FileAnswer, openFile, staticFiles } from '../../src/http/files.ts'
import { rangesOf } from '../../src/http/ranges.ts'
import { isOpenBelow } from '../../src/http/whereabouts.ts'
import { http } from '../../src/index.ts'
import { open } from '../../src/testing.ts'
import { atLength } from '../support/length.ts'
import { rejects, until } from '../support/until.ts'

const WHEN = new Date('2024-11-24T12:00:00.000Z')

async function inFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-files-'))
  const before = readdirSync('/proc/self/fd').length
  try {
    writeFileSync(join(folder, 'a.txt'), '0123456789')
    utimesSync(join(folder, 'a.txt'), WHEN, WHEN)
    await use(folder)
    assert.is(readdirSync('/proc/self/fd').length, before, 'a descriptor is left open')
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function asking(headers: Record<string, string> = {}, method = 'GET') {
  return {
    method,
    header: (name: string) => headers[name],
    codingFor: (codings: readonly string[]) => codingFor(headers['accept-encoding'] ?? '', codings),
  }
}

async function read(answer: FileAnswer | null): Promise<string> {
  const parts: Uint8Array[] = []
  for await (const part of answer?.body ?? []) parts.push(part)
  return Buffer.concat(parts).toString()
}

const fields = (answer: FileAnswer | null): Record<string, string> => Object.fromEntries(answer?.headers ?? [])

test('a whole file has type, length and validators', async () => {
  await inFolder(async (folder) => {
    const answer = await openFile({ path: join(folder, 'a.txt') }, asking())
    assert.equal([answer.status, answer.size], [200, 10])
    const { ETag, ...rest } = fields(answer)
    assert.equal(rest, {
      'Content-Type': 'text/plain; charset=utf-8',
      'Last-Modified': WHEN.toUTCString(),
      'Accept-Ranges': 'bytes',
    })
    assert.match(String(ETag), /^"[\w-]+"$/)
    assert.is(await read(answer), '0123456789')
    assert.is(await read(await openFile({ path: join(folder, 'a.txt'), offset: 2, length: 3 }, asking())), '234')
  })
})

test('conditions are tried in the order of RFC 9110', async () => {
  await inFolder(async (folder) => {
    const path = join(folder, 'a.txt')
    const first = await openFile({ path }, asking())
    const etag = String(fields(first).ETag)
    await first.close()
    const later = new Date(WHEN.getTime() + 1000).toUTCString()
    const earlier = new Date(WHEN.getTime() - 1000).toUTCString()
    for (const [headers, status, method] of [
      [{ 'if-none-match': etag }, 304],
      [{ 'if-none-match': `"x", ${etag}` }, 304],
      [{ 'if-none-match': `W/${etag}` }, 304],
      [{ 'if-none-match': etag.slice(1, -1) }, 200],
      [{ 'if-none-match': '' }, 200],
      [{ 'if-none-match': etag, 'if-modified-since': earlier }, 304],
      [{ 'if-none-match': '"x"', 'if-modified-since': WHEN.toUTCString() }, 200],
      [{ 'if-none-match': '*' }, 304],
      [{ 'if-none-match': '"x"', 'if-modified-since': later }, 200],
      [{ 'if-none-match': etag }, 412, 'PUT'],
      [{ 'if-modified-since': WHEN.toUTCString() }, 304],
      [{ 'if-modified-since': earlier }, 200],
      [{ 'if-modified-since': later }, 304],
      [{ 'if-modified-since': 'nonsense' }, 200],
      [{ 'if-modified-since': '2025' }, 200],
      [{ 'if-modified-since': new Date(Date.now() + 86_400_000).toUTCString() }, 200],
      [{ 'if-modified-since': 'Sunday, 24-Nov-24 12:00:00 GMT' }, 304],
      [{ 'if-modified-since': 'Sun Nov 24 12:00:00 2024' }, 304],
      [{ 'if-modified-since': WHEN.toUTCString() }, 200, 'PUT'],
      [{ 'if-match': '*' }, 200],
      [{ 'if-match': '"x"' }, 412],
      [{ 'if-match': `"x" , ${etag}` }, 200],
      [{ 'if-match': `W/${etag}` }, 412],
      [{ 'if-match': etag, 'if-unmodified-since': earlier }, 200],
      [{ 'if-match': etag, 'if-none-match': etag }, 304],
      [{ 'if-match': '"x"', 'if-none-match': etag }, 412],
      [{ 'if-unmodified-since': 'nonsense' }, 200],
      [{ 'if-unmodified-since': earlier }, 412],
      [{ 'if-unmodified-since': WHEN.toUTCString() }, 200],
      [{ range: 'bytes=0-1', 'if-range': WHEN.toUTCString() }, 206],
      [{ range: 'bytes=0-1', 'if-range': earlier }, 200],
      [{ range: 'bytes=0-1', 'if-range': later }, 200],
      [{ range: 'bytes=0-1', 'if-range': etag }, 206],
      [{ range: 'bytes=0-1', 'if-range': `W/${etag}` }, 200],
      [{ range: 'bytes=0-1', 'if-range': '"x"' }, 200],
      [{ range: 'bytes=0-1', 'if-range': 'nonsense' }, 200],
      [{ range: 'bytes=99-', 'if-range': '"x"' }, 200],
      [{ range: 'bytes=0-1', 'if-match': '"x"' }, 412],
      [{ range: 'bytes=0-1' }, 200, 'POST'],
      [{ range: 'bytes=0-1', 'if-none-match': etag }, 304],
      [{ range: 'bytes=0-1' }, 200, 'HEAD'],
      [{ range: 'bytes=10-' }, 416],
    ] as [Record<string, string>, number, string?][]) {
      const answer = await openFile({ path }, asking(headers, method))
      assert.is(answer.status, status, JSON.stringify(headers))
      await answer.close()
    }
    const not = await openFile({ path }, asking({ 'if-none-match': etag }))
    const { 'Last-Modified': modified, ETag } = fields(not)
    assert.equal([modified, ETag, not.size], [WHEN.toUTCString(), etag, 0])
    const unsatisfied = await openFile({ path }, asking({ range: 'bytes=99-' }))
    assert.is(fields(unsatisfied)['Content-Range'], 'bytes */10')
  })
})

test('a file that may still change within a second has a weak ETag, and no date that lies ahead', async () => {
  await inFolder(async (folder) => {
    const path = join(folder, 'a.txt')
    for (const ahead of [0, 3_600_000]) {
      const when = new Date(Date.now() + ahead)
      utimesSync(path, when, when)
      const answer = await openFile({ path }, asking())
      await answer.close()
      const { ETag = '', 'Last-Modified': modified = '' } = fields(answer)
      assert.match(ETag, /^W\//)
      assert.ok(Date.parse(modified) <= Date.now())
      for (const [headers, status] of [
        [{ 'if-none-match': ETag }, 304],
        [{ 'if-none-match': ETag.slice(2) }, 304],
        [{ 'if-match': ETag }, 412],
        [{ range: 'bytes=0-1', 'if-range': ETag }, 200],
        [{ range: 'bytes=0-1', 'if-range': modified }, 200],
      ] as const) {
        const other = await openFile({ path }, asking(headers))
        await other.close()
        assert.is(other.status, status, JSON.stringify(headers))
      }
    }
  })
})

test('dates: three formats and nothing else', () => {
  for (const text of ['Sun, 06 Nov 1994 08:49:37 GMT', 'Sunday, 06-Nov-94 08:49:37 GMT', 'Sun Nov  6 08:49:37 1994'])
    assert.is(parseHttpDate(text), 784_111_777_000, text)
  assert.is(parseHttpDate('Monday, 01-Jan-01 00:00:00 GMT'), Date.UTC(2001, 0, 1))
  for (const text of [
    '',
    '0',
    '784111777',
    '1994-11-06T08:49:37Z',
    'Sun, 06 Nov 1994 08:49:37',
    'Sun, 06 Nov 1994 08:49:37 +0100',
    'Sun, 6 Nov 1994 08:49:37 GMT',
    'Sun, 31 Feb 1994 08:49:37 GMT',
    'Sun, 06 Nov 1994 24:00:00 GMT',
    'Sun, 06 Nov 1994 08:60:37 GMT',
    'Sun, 06 Foo 1994 08:49:37 GMT',
    'Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT',
  ])
    assert.ok(Number.isNaN(parseHttpDate(text)), text)
})

test('ranges: one, several, from the end, too many, nonsense', async () => {
  for (const [field, expected] of [
    ['bytes=0-0', [[0, 0]]],
    ['bytes=5-', [[5, 9]]],
    ['bytes=-3', [[7, 9]]],
    ['bytes=-99', [[0, 9]]],
    ['bytes=2-99', [[2, 9]]],
    [
      'bytes=0-1, 8-9',
      [
        [0, 1],
        [8, 9],
      ],
    ],
    [
      'bytes=8-9,0-1',
      [
        [8, 9],
        [0, 1],
      ],
    ],
    ['bytes=0-4,3-6,7-8', [[0, 8]]],
    ['bytes=0-1,99-', [[0, 1]]],
    ['bytes=-0', 'unsatisfiable'],
    ['bytes=10-', 'unsatisfiable'],
    ['bytes=5-2', null],
    ['BYTES=0-1', [[0, 1]]],
    [
      'bytes=0-1,,\t4-5,',
      [
        [0, 1],
        [4, 5],
      ],
    ],
    [`bytes=3-${'9'.repeat(30)}`, [[3, 9]]],
    [`bytes=-${'9'.repeat(30)}`, [[0, 9]]],
    [`bytes=${'9'.repeat(30)}-`, 'unsatisfiable'],
    ['bytes=,', null],
    ['bytes', null],
    ['bytes=0-1, a', null],
    ['bytes=0 - 1', null],
    ['bytes=+0-1', null],
    ['bytes=', null],
    ['bytes=-', null],
    ['bytes=a-b', null],
    ['bytes=0-1;2', null],
    ['lines=0-1', null],
    [`bytes=${'0-0,'.repeat(16)}1-1`, null],
  ] as const) {
    const found = rangesOf(field, 10)
    assert.equal(Array.isArray(found) ? found.map(({ first, last }) => [first, last]) : found, expected, field)
  }
  for (const [field, expected] of [
    ['bytes=-5', null], // satisfiable (RFC 9110 section 14.1.2), but there is no Content-Range for no bytes
    ['bytes=0-', null],
    ['bytes=0-99', null],
    ['bytes=5-', 'unsatisfiable'],
    ['bytes=5-,-5', null],
  ] as const)
    assert.is(rangesOf(field, 0), expected, field)
  await inFolder(async (folder) => {
    const several = await openFile({ path: join(folder, 'a.txt') }, asking({ range: 'bytes=0-1,-2' }))
    const text = await read(several)
    assert.is(several.size, text.length)
    const [, boundary = ''] = /boundary=(.+)$/.exec(String(fields(several)['Content-Type'])) ?? []
    const part = (range: string, body: string) =>
      `\r\n--${boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes ${range}/10\r\n\r\n${body}`
    assert.is(text, `${part('0-1', '01')}${part('8-9', '89')}\r\n--${boundary}--\r\n`)
  })
})

test('what is given up half-way, or never read, is closed', async () => {
  await inFolder(async (folder) => {
    const path = join(folder, 'big.bin')
    writeFileSync(path, Buffer.alloc(500_000))
    for await (const _ of (await openFile({ path }, asking())).body ?? []) break
    await (await openFile({ path }, asking())).close()
    const unread = await openFile({ path }, asking())
    await unread.body?.[Symbol.asyncIterator]().return?.()
  })
})

test('a file that shrinks while it is sent breaks off; one that grows keeps its length', async () => {
  await inFolder(async (folder) => {
    const path = join(folder, 'b.bin')
    writeFileSync(path, Buffer.alloc(300_000))
    const shrinking = await openFile({ path }, asking())
    truncateSync(path, 100_000)
    await read(shrinking).then(
      () => assert.unreachable(),
      (error) => assert.is(codeOf(error), 'EIO'),
    )
    const growing = await openFile({ path }, asking())
    appendFileSync(path, 'more')
    assert.is((await read(growing)).length, 100_000)
  })
})

test('what is no regular file is refused, and a FIFO does not hang', async () => {
  await inFolder(async (folder) => {
    execFileSync('mkfifo', [join(folder, 'fifo')])
    for (const [name, code] of [
      ['fifo', 'ENOENT'],
      ['.', 'EISDIR'],
      ['none', 'ENOENT'],
    ] as const)
      await openFile({ path: join(folder, name) }, asking()).then(
        () => assert.unreachable(),
        (error) => assert.is(codeOf(error), code, name),
      )
    for (const precompressed of [false, true]) {
      const files = staticFiles(folder, { precompressed })
      assert.is(await files({ path: '/fifo', ...asking() }), null)
    }
  })
})

test('a folder is served, and nothing outside of it', async () => {
  await inFolder(async (folder) => {
    const root = join(folder, 'root')
    mkdirSync(join(root, 'sub dir'), { recursive: true })
    mkdirSync(join(folder, 'root-evil'))
    writeFileSync(join(folder, 'root-evil', 'x.txt'), 'evil')
    writeFileSync(join(root, 'index.html'), 'home')
    writeFileSync(join(root, 'caf\u00e9.txt'), 'coffee')
    writeFileSync(join(root, '.env'), 'secret')
    writeFileSync(join(root, 'sub dir', 'index.html'), 'sub')
    symlinkSync(join(folder, 'a.txt'), join(root, 'out'))
    symlinkSync('index.html', join(root, 'in'))
    const later = join(folder, 'later')
    const early = staticFiles(later)
    await rejects(early({ path: '/a', ...asking() }), 'ERR_BAD_ROOT')
    const file = join(folder, 'no-folder')
    writeFileSync(file, 'x')
    await rejects(staticFiles(file)({ path: '/a', ...asking() }), 'ERR_BAD_ROOT')
    mkdirSync(later)
    assert.is(await early({ path: '/a', ...asking() }), null)
    const files = staticFiles(root)
    const get = async (path: string, method = 'GET') => {
      const answer = await files({ path, ...asking({}, method) })
      return answer === null ? null : `${answer.status} ${fields(answer).Location ?? (await read(answer))}`
    }
    for (const [path, expected] of [
      ['/', '200 home'],
      ['/index.html', '200 home'],
      ['/in', '200 home'],
      ['/caf%C3%A9.txt', '200 coffee'],
      ['/sub%20dir', '301 /sub%20dir/'],
      ['/sub%20dir/', '200 sub'],
      ['/out', null],
      ['/.env', null],
      ['/%2eenv', null],
      ['/../a.txt', null],
      ['/%2e%2e/a.txt', null],
      ['/..%2fa.txt', null],
      ['/..%5ca.txt', null],
      ['/..\\a.txt', null],
      ['/%252e%252e/a.txt', null],
      ['/../root-evil/x.txt', null],
      ['/index.html%00.png', null],
      ['/%c0%ae%c0%ae/a.txt', null],
      ['/%', null],
      ['/sub dir/../index.html', null],
      ['//index.html', null],
      ['/index.html/', null],
      ['index.html', null],
      ['/none', null],
    ] as const)
      assert.is(await get(path), expected, path)
    assert.is(await get('/', 'POST'), null)
    const moved = await files({ path: '/sub%20dir', queryString: 'a=b', ...asking() })
    assert.is(fields(moved).Location, '/sub%20dir/?a=b')
    const open = staticFiles(root, { dotfiles: true, followLinks: true, maxAge: 60, immutable: true })
    const dot = await open({ path: '/.env', ...asking() })
    assert.is(fields(dot)['Cache-Control'], 'public, max-age=60, immutable')
    assert.is(await read(dot), 'secret')
    assert.is(await read(await open({ path: '/out', ...asking() })), '0123456789')
  })
})

test('what was compressed before is sent to who takes it', async () => {
  await inFolder(async (folder) => {
    writeFileSync(join(folder, 'a.txt.br'), 'brotli')
    writeFileSync(join(folder, 'a.txt.gz'), 'gzip')
    const files = staticFiles(folder, { precompressed: true })
    for (const [accepted, coding, body] of [
      ['gzip, br', 'br', 'brotli'],
      ['gzip, br;q=0', 'gzip', 'gzip'],
      ['gzip;q=0.8, br;q=0.5', 'gzip', 'gzip'],
      ['*', 'br', 'brotli'],
      ['*;q=0, gzip', 'gzip', 'gzip'],
      ['x-br, gzip;q=0.000', undefined, '0123456789'],
      ['br;q=0.5, identity', undefined, '0123456789'],
      ['', undefined, '0123456789'],
    ] as const) {
      const answer = await files({ path: '/a.txt', ...asking({ 'accept-encoding': accepted }) })
      const { 'Content-Encoding': used, 'Content-Type': type, Vary } = fields(answer)
      assert.equal([used, type, Vary], [coding, 'text/plain; charset=utf-8', 'Accept-Encoding'])
      assert.is(await read(answer), body)
    }
  })
})

test('what is packed is found as its file is: no link leads out of the folder, and folders have no such thing', async () => {
  await inFolder(async (folder) => {
    const home = join(folder, 'public')
    mkdirSync(join(home, 'sub'), { recursive: true })
    for (const name of ['secret', 'public.gz', 'public/in.gz', 'public/sub.gz']) writeFileSync(join(folder, name), name)
    for (const name of ['a.txt', 'b.txt']) writeFileSync(join(home, name), 'plain')
    symlinkSync('../secret', join(home, 'a.txt.gz'))
    symlinkSync('../secret', join(home, 'a.txt.br'))
    symlinkSync('in.gz', join(home, 'b.txt.gz'))
    const ask = (path: string, followLinks: boolean) =>
      staticFiles(home, { precompressed: true, followLinks })({ path, ...asking({ 'accept-encoding': 'br, gzip' }) })
    assert.is(await read(await ask('/a.txt', false)), 'plain')
    assert.is(await read(await ask('/a.txt', true)), 'secret')
    assert.is(await read(await ask('/b.txt', false)), 'public/in.gz')
    for (const followLinks of [false, true]) {
      assert.is((await ask('/sub', followLinks))?.status, 301)
      assert.is(await ask('/', followLinks), null)
    }
  })
})

/** Exchanges a folder and a link, as somebody may who can write beside them, until it is ended. */
const EXCHANGER = `
  const { renameSync } = require('node:fs')
  const { parentPort, workerData: root } = require('node:worker_threads')
  parentPort.postMessage('exchanging')
  for (;;) {
    for (const [from, to] of [['shown', 'aside'], ['link', 'shown'], ['shown', 'link'], ['aside', 'shown']])
      renameSync(root + '/' + from, root + '/' + to)
  }
`

test('a link that takes the place of a folder while a file is opened leads nowhere', async () => {
  await inFolder(async (folder) => {
    const root = join(folder, 'root')
    for (const place of ['root/shown', 'secret']) {
      mkdirSync(join(folder, place), { recursive: true })
      writeFileSync(join(folder, place, 'f.txt'), place)
    }
    symlinkSync('../secret', join(root, 'link'))
    const files = staticFiles(root)
    const exchanger = new Worker(EXCHANGER, { eval: true, workerData: root })
    const counts = new Map<string, number>()
    try {
      await once(exchanger, 'message')
      const ask = async () => {
        const text = await read(await files({ ...asking(), path: '/shown/f.txt' }))
        counts.set(text, (counts.get(text) ?? 0) + 1)
      }
      for (let n = 0; n < atLength(1_000, 20_000); n++) await ask()
      await until(async () => {
        await ask()
        return counts.has('root/shown')
      })
    } finally {
      await exchanger.terminate()
    }
    counts.delete('') // there was nothing at that time
    assert.equal([...counts.keys()], ['root/shown'])
  })
})

test('where no /proc tells the place of an open file, its path must still lead to it', async () => {
  await inFolder(async (folder) => {
    const path = join(folder, 'a.txt')
    const file = await openHandle(path)
    const unknown = { fd: -1, stat: () => file.stat() } as FileHandle
    try {
      assert.equal([await isOpenBelow(folder, file, path), await isOpenBelow(folder, unknown, path)], [true, true])
      assert.not(await isOpenBelow(join(folder, 'other'), file, path))
      renameSync(path, join(folder, 'b.txt'))
      assert.not(await isOpenBelow(folder, unknown, path))
      symlinkSync('b.txt', path)
      assert.not(await isOpenBelow(folder, unknown, path))
      renameSync(join(folder, 'b.txt'), path)
      writeFileSync(join(folder, 'b.txt'), '')
      assert.ok(await isOpenBelow(folder, unknown, path))
      renameSync(join(folder, 'b.txt'), path)
      assert.not(await isOpenBelow(folder, unknown, path))
      assert.ok(await isOpenBelow(folder, file, path)) // it was replaced, as editors do
    } finally {
      await file.close()
    }
  })
})

test('a folder that is a link is followed to where it leads now', async () => {
  await inFolder(async (folder) => {
    for (const name of ['v1', 'v2']) {
      mkdirSync(join(folder, name))
      writeFileSync(join(folder, name, 'a.txt'), name)
    }
    const current = join(folder, 'current')
    const files = staticFiles(current)
    const ask = async () => read(await files({ path: '/a.txt', ...asking() }))
    symlinkSync('v1', current)
    assert.is(await ask(), 'v1')
    symlinkSync('v2', `${current}.new`)
    renameSync(`${current}.new`, current)
    assert.is(await ask(), 'v2')
    rmSync(join(folder, 'v1'), { recursive: true })
    assert.is(await ask(), 'v2')
    rmSync(join(folder, 'v2'), { recursive: true })
    await rejects(ask(), 'ERR_BAD_ROOT')
  })
})

test('a link has the type of its own name, and what is packed beside it, before that of its target', async () => {
  await inFolder(async (folder) => {
    mkdirSync(join(folder, 'objects'))
    for (const name of ['objects/ab12', 'v3.css', 'v3.css.br']) writeFileSync(join(folder, name), name)
    symlinkSync('objects/ab12', join(folder, 'style.css'))
    symlinkSync('v3.css', join(folder, 'latest'))
    const ask = async (path: string) => {
      const files = staticFiles(folder, { precompressed: true })
      const answer = await files({ path, ...asking({ 'accept-encoding': 'br' }) })
      const { 'Content-Type': type, 'Content-Encoding': coding } = fields(answer)
      return [type, coding, await read(answer)]
    }
    const css = 'text/css; charset=utf-8'
    assert.equal(await ask('/style.css'), [css, undefined, 'objects/ab12'])
    assert.equal(await ask('/latest'), [css, 'br', 'v3.css.br'])
    writeFileSync(join(folder, 'style.css.br'), 'packed')
    assert.equal(await ask('/style.css'), [css, 'br', 'packed'])
    const plain = await staticFiles(folder)({ path: '/style.css', ...asking() })
    assert.equal([fields(plain)['Content-Type'], await read(plain)], [css, 'objects/ab12'])
  })
})

test('a part of what is packed has the type of its file', async () => {
  await inFolder(async (folder) => {
    writeFileSync(join(folder, 'a.txt.gz'), 'packed')
    const files = staticFiles(folder, { precompressed: true })
    const ask = (range: string) => files({ path: '/a.txt', ...asking({ 'accept-encoding': 'gzip', range }) })
    const one = await ask('bytes=0-1')
    assert.equal([one?.status, fields(one)['Content-Type'], await read(one)], [206, 'text/plain; charset=utf-8', 'pa'])
    const two = await ask('bytes=0-1,3-3')
    assert.match(String(fields(two)['Content-Type']), /^multipart\/byteranges/)
    assert.equal((await read(two)).match(/(?<=Content-Type: ).*(?=\r)/g), Array(2).fill('text/plain; charset=utf-8'))
  })
})

/** The answer of a handler that sends `response` with the file as its body: its head, and the body as text. */
async function answerOf(response: Response, more = '', settings: HttpSettings = {}): Promise<[string, string]> {
  const server = open(http(settings), { onMessage: (connection) => connection.send(response) })
  server.receive(`GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n${more}\r\n`)
  let text = ''
  await until(() => {
    text += server.written().toString('latin1')
    return server.socket.hasEnded
  })
  const end = text.indexOf('\r\n\r\n')
  return [text.slice(0, end + 2), text.slice(end + 4)]
}

test('withFile: a type of one’s own goes where the file’s would be, and several ranges keep their boundary', async () => {
  await inFolder(async (folder) => {
    const own = () => new Response(200, { 'Content-Type': 'text/csv' }).withFile(join(folder, 'a.txt'))
    const [whole] = await answerOf(own())
    assert.equal(whole.match(/(?<=Content-Type: ).*(?=\r)/g), ['text/csv'])
    const [head, body] = await answerOf(own(), 'Range: bytes=0-1,5-6\r\n')
    const boundary = /\r\nContent-Type: multipart\/byteranges; boundary=(\S+)\r\n/.exec(head)?.[1]
    assert.ok(boundary !== undefined && body.endsWith(`--${boundary}--\r\n`), head)
    assert.equal(body.match(/(?<=Content-Type: ).*(?=\r)/g), ['text/csv', 'text/csv'])
  })
})

test('withFile: validators of one’s own are compared', async () => {
  await inFolder(async (folder) => {
    const when = 'Sun, 01 Jan 2023 00:00:00 GMT'
    const own = () => new Response(200, { ETag: '"v1"', 'Last-Modified': when }).withFile(join(folder, 'a.txt'))
    for (const [more, status] of [
      ['If-None-Match: "v1"\r\n', 304],
      ['If-None-Match: "v2"\r\n', 200],
      ['Range: bytes=5-\r\nIf-Range: "v1"\r\n', 206],
      ['Range: bytes=5-\r\nIf-Range: "v2"\r\n', 200],
      [`Range: bytes=5-\r\nIf-Range: ${when}\r\n`, 206],
      [`If-Modified-Since: ${when}\r\n`, 304],
      [`If-Match: "v2"\r\n`, 412],
    ] as const) {
      const [head] = await answerOf(own(), more)
      assert.match(head, new RegExp(`^HTTP/1.1 ${status} `), more)
      assert.equal(head.match(/(?<=ETag: ).*(?=\r)/g), ['"v1"'], more)
      assert.equal(head.match(/(?<=Last-Modified: ).*(?=\r)/g), [when], more)
    }
  })
})

test('withFile: an ETag may have a comma in it', async () => {
  await inFolder(async (folder) => {
    const own = () => new Response(200, { ETag: '"a,b"' }).withFile(join(folder, 'a.txt'))
    for (const [more, status] of [
      ['If-None-Match: "a,b"\r\n', 304],
      ['If-None-Match: "x" , W/"a,b"\r\n', 304],
      ['If-None-Match: "a", "b"\r\n', 200],
      ['If-Match: "x","a,b"\r\n', 200],
      ['If-Match: W/"a,b"\r\n', 412],
      ['If-Match: "a", "b"\r\n', 412],
    ] as const) {
      const [head] = await answerOf(own(), more)
      assert.match(head, new RegExp(`^HTTP/1.1 ${status} `), more)
    }
  })
})

test('withFile: a reason and a lifetime of one’s own are those of one’s own status', async () => {
  await inFolder(async (folder) => {
    const own = () =>
      new Response(200, { 'Cache-Control': 'max-age=60' }).withStatus(200, 'Fine').withFile(join(folder, 'a.txt'))
    for (const [more, line, hasLifetime] of [
      ['', '200 Fine', true],
      ['Range: bytes=5-\r\n', '206 Partial Content', true],
      [`If-Modified-Since: ${WHEN.toUTCString()}\r\n`, '304 Not Modified', true],
      ['Range: bytes=99-\r\n', '416 Range Not Satisfiable', false],
    ] as const) {
      const [head] = await answerOf(own(), more)
      assert.is(head.split('\r\n')[0], `HTTP/1.1 ${line}`)
      assert.is(head.includes('Cache-Control'), hasLifetime, line)
    }
  })
})

test('withFile: a type of one’s own decides whether it is compressed', async () => {
  await inFolder(async (folder) => {
    writeFileSync(join(folder, 'data.bin'), 'x'.repeat(5000))
    const ask = async (response: Response) => {
      const [head] = await answerOf(response.withFile(join(folder, 'data.bin')), 'Accept-Encoding: gzip\r\n', {
        compress: true,
      })
      return [head.includes('Content-Encoding: gzip'), head.includes('Vary')]
    }
    assert.equal(await ask(new Response(200, { 'Content-Type': 'text/csv' })), [true, true])
    assert.equal(await ask(new Response(200)), [false, false])
  })
})

test('maxAge is for what was asked for, and not for a refusal, which caches would give to others', async () => {
  await inFolder(async (folder) => {
    const files = staticFiles(folder, { maxAge: 60, precompressed: true })
    const ask = async (headers: Record<string, string>) => {
      const answer = await files({ path: '/a.txt', ...asking(headers) })
      await answer?.close()
      const { 'Cache-Control': cache, Vary: vary } = fields(answer)
      return [answer?.status, cache, vary]
    }
    for (const [headers, status] of [
      [{}, 200],
      [{ range: 'bytes=0-1' }, 206],
      [{ 'if-modified-since': WHEN.toUTCString() }, 304],
    ] as const)
      assert.equal(await ask(headers), [status, 'public, max-age=60', 'Accept-Encoding'])
    for (const [headers, status] of [
      [{ range: 'bytes=99-' }, 416],
      [{ 'if-match': '"other"' }, 412],
      [{ 'if-unmodified-since': new Date(0).toUTCString() }, 412],
    ] as const)
      assert.equal(await ask(headers), [status, undefined, 'Accept-Encoding'])
  })
})

test.run()
