// Uploads as files: what a disk that fills up costs, forms that are none, and how long the files stay.

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { http } from 'millrace'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request } from '../../protocols/http/request.ts'
import type { UploadSettings } from '../../protocols/http/settings.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { codeOf } from '../../src/errors.ts'
import { readUploads } from '../../src/http/uploads.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { atLength, caseTest } from '../support/length.ts'
import { type Client, withServer } from '../support/tcp.ts'
import { until, within } from '../support/until.ts'
import { asRoot } from '../support/where.ts'

const TYPE = 'multipart/form-data; boundary=X'

async function* bytesOf(text: string): AsyncGenerator<Buffer> {
  yield Buffer.from(text)
}

/** A form of files of `size` bytes each, in pieces of 16 KiB. */
async function* form(files: number, size: number): AsyncGenerator<Buffer> {
  for (let n = 0; n < files; n++) {
    yield Buffer.from(`--X\r\nContent-Disposition: form-data; name="f${n}"; filename="${n}"\r\n\r\n`)
    for (let left = size; left > 0; left -= 16_384) yield Buffer.alloc(Math.min(left, 16_384), 'a')
    yield Buffer.from('\r\n')
  }
  yield Buffer.from('--X--\r\n')
}

/** A form of fields of `size` bytes each; `taken` learns how many of them were asked for. */
async function* fields(count: number, size: number, taken = { count: 0 }): AsyncGenerator<Buffer> {
  for (let n = 0; n < count; n++) {
    taken.count++
    yield Buffer.from(`--X\r\nContent-Disposition: form-data; name="n"\r\n\r\n${'a'.repeat(size)}\r\n`)
  }
  yield Buffer.from('--X--\r\n')
}

/** The code of what it rejects with. */
async function failureOf(
  body: AsyncGenerator<Buffer>,
  directory: string,
  limits: UploadSettings = {},
): Promise<string> {
  const reading = readUploads(body, TYPE, { directory, ...limits })
  return within(
    10_000,
    reading.then(() => '', codeOf),
  )
}

asRoot('a disk that fills up in the middle of a file ends the upload, and leaves nothing there', async () => {
  const disk = mkdtempSync(join(tmpdir(), 'millrace-disk-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=700', 'none', disk])
  try {
    const directory = join(disk, 'uploads')
    mkdirSync(directory, { mode: 0o700 })
    for (const [files, size] of [
      [1, 8_000_000],
      [30, 100_000],
      [1, 1_100_000],
    ] as const) {
      assert.is(await failureOf(form(files, size), directory), 'ENOSPC', `${files} of ${size}`)
      assert.equal(readdirSync(directory), [])
    }
    assert.is(await failureOf(form(2, 100_000), directory), '')
  } finally {
    execFileSync('umount', [disk])
    rmSync(disk, { recursive: true })
  }
})

test('more files than there may be are refused, and none of them stays', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  assert.is(await failureOf(form(120, 5), directory), 'ERR_FORM_TOO_LARGE')
  assert.is(await failureOf(form(120, 20_000), directory), 'ERR_FORM_TOO_LARGE')
  assert.equal(readdirSync(directory), [])
  rmSync(directory, { recursive: true })
})

/** Small files, whose making is still under way when one that is too large follows. */
async function* tooLarge(): AsyncGenerator<Buffer> {
  const head = (n: number) => `--X\r\nContent-Disposition: form-data; name="f${n}"; filename="${n}"\r\n\r\n`
  const small = Array.from({ length: 8 }, (_, n) => `${head(n)}a\r\n`).join('')
  yield Buffer.from(`${small}${head(8)}${'a'.repeat(2000)}\r\n--X--\r\n`)
}

test('a form that is refused leaves no file behind which was still being made', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const refused = () => failureOf(tooLarge(), directory, { maxFileBytes: 1000 })
  for (let round = 0; round < atLength(10, 100); round++) {
    const codes = await Promise.all(Array.from({ length: 20 }, refused))
    assert.equal([...new Set(codes)], ['ERR_FORM_TOO_LARGE'])
  }
  assert.equal(readdirSync(directory), [])
  rmSync(directory, { recursive: true })
})

test('all fields of a form together are bounded, whatever each may take, and not one more is read', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const taken = { count: 0 }
  assert.is(await failureOf(fields(40, 1_000_000, taken), directory), 'ERR_FORM_TOO_LARGE')
  assert.ok(taken.count <= 12, `${taken.count} MB were read`)
  assert.is(await failureOf(fields(10, 1_000_000), directory), '')
  const limits = { maxFieldsBytes: 100 }
  assert.is(await failureOf(fields(10, 9), directory, limits), '', 'each with a name of one byte')
  assert.is(await failureOf(fields(11, 9), directory, limits), 'ERR_FORM_TOO_LARGE')
  assert.is(await failureOf(fields(1, 101), directory, limits), 'ERR_FORM_TOO_LARGE')
  assert.is(await failureOf(fields(1, 99), directory, limits), '')
  rmSync(directory, { recursive: true })
})

const DAY_S = 86_400

/** The name of the file of an upload to a new folder, which it is removed from: `<where>-<pid>-<random>`. */
async function ownName(): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  await readUploads(form(1, 5), TYPE, { directory })
  const [name = ''] = readdirSync(directory)
  rmSync(directory, { recursive: true })
  return name
}

test('files of the dead go, but not those of processes elsewhere, of which nothing is known, before they are a day old', async () => {
  const [where = '', pid, random = ''] = (await ownName()).split('-')
  assert.is(Number(pid), process.pid)
  const dead = spawnSync('true').pid
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const elsewhere = where.replace(/./g, (digit) => (digit === '0' ? '1' : '0'))
  const names = {
    ours: `${where}-${process.ppid}-${random}`,
    left: `${where}-${dead}-${random}`,
    theirs: `${elsewhere}-${dead}-${random}`,
    theirsOld: `${elsewhere}-${process.pid}-${random}`,
    other: 'notes',
  }
  for (const name of Object.values(names)) writeFileSync(join(directory, name), '')
  const before = Date.now() / 1000 - DAY_S - 60
  for (const name of [names.theirsOld, names.ours, names.other]) utimesSync(join(directory, name), before, before)
  const { dispose } = await readUploads(form(1, 5), TYPE, { directory })
  await dispose()
  await until(() => readdirSync(directory).length === 3)
  assert.equal(readdirSync(directory).sort(), [names.ours, names.theirs, names.other].sort())
  rmSync(directory, { recursive: true })
})

asRoot('an upload in another PID namespace leaves the files of this one alone', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const { files } = await readUploads(form(1, 5), TYPE, { directory })
  const code = `
    import { readUploads } from ${JSON.stringify(new URL('../../src/http/uploads.js', import.meta.url))}
    const body = ['--X\\r\\nContent-Disposition: form-data; name="a"\\r\\n\\r\\nb\\r\\n--X--\\r\\n']
    await readUploads(body.map((text) => Buffer.from(text)), '${TYPE}', { directory: '${directory}' })
  `
  const node = [process.execPath, '--input-type=module', '-e', code]
  execFileSync('unshare', ['--pid', '--fork', '--mount-proc', ...node])
  await files[0]?.move(join(directory, 'moved'))
  assert.equal(readdirSync(directory), ['moved'])
  rmSync(directory, { recursive: true })
})

test('a part without a name is the client’s fault, a long name too much, and many header lines are no matter', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const part = (head: string) => bytesOf(`--X\r\n${head}\r\n\r\nv\r\n--X--\r\n`)
  const disposition = 'Content-Disposition: form-data'
  for (const [more, code] of [
    ['', 'ERR_BAD_MULTIPART'],
    ['; filename="f"', 'ERR_BAD_MULTIPART'],
    [`; name="${'n'.repeat(256)}"`, 'ERR_FORM_TOO_LARGE'],
    [`; name="${'\u00e9'.repeat(128)}"`, 'ERR_FORM_TOO_LARGE'],
    [`; name="${'n'.repeat(256)}"; filename="f"`, 'ERR_FORM_TOO_LARGE'],
    [`; name="${'n'.repeat(255)}"; filename="${'f'.repeat(300)}"`, ''],
    ['; name=""', ''],
  ] as const)
    assert.is(await failureOf(part(disposition + more), directory), code, more)
  const reading = readUploads(part(`${'A: b\r\n'.repeat(5000)}${disposition}; name="a"`), TYPE, { directory })
  assert.equal((await reading).fields, [['a', 'v']])
  rmSync(directory, { recursive: true })
})

test('a part that the parser does not see is not left out: the form is refused', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const good = '--X\r\nContent-Disposition: form-data; name="b"\r\n\r\n2\r\n'
  for (const head of [
    'Content-Type: text/plain',
    'Content-Disposition: attachment; name="a"',
    'Content-Disposition : form-data; name="a"',
    'X: y',
    `X: ${'y'.repeat(90_000)}\r\nContent-Disposition: form-data; name="a"`,
  ]) {
    const part = `--X\r\n${head}\r\n\r\nval\r\n`
    for (const text of [part + good, good + part, good + part + good])
      for (const size of [1, 7, 65_536])
        if (size > 1 || text.length < 1000) {
          const pieces = text.match(new RegExp(`[^]{1,${size}}`, 'g')) ?? []
          const body = async function* () {
            for (const piece of pieces) yield Buffer.from(piece)
            yield Buffer.from('--X--\r\n')
          }
          assert.is(await failureOf(body(), directory), 'ERR_BAD_MULTIPART', `${head.slice(0, 50)} by ${size}`)
        }
  }
  rmSync(directory, { recursive: true })
})

test('a part whose head has over 80 KiB is refused, however it is cut: the parser would go on without the rest of it', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const disposition = 'Content-Disposition: form-data; name="f"; filename="f"'
  /** A part whose header lines have `size` bytes, each with its line end; the last one is its type. */
  const part = (size: number) => {
    const [first, last] = [`${disposition}\r\nX: `, '\r\nContent-Type: image/png\r\n']
    return `--X\r\n${first}${'y'.repeat(size - first.length - last.length)}${last}\r\nval\r\n`
  }
  const small = `--X\r\n${disposition}\r\nContent-Type: image/png\r\n\r\n${'v'.repeat(200_000)}\r\n`
  const read = (text: string, size: number) => {
    async function* pieces() {
      for (let at = 0; at < text.length; at += size) yield Buffer.from(text.slice(at, at + size))
    }
    const reading = readUploads(pieces(), TYPE, { directory })
    return within(
      10_000,
      reading.then(({ files }) => files.map(({ type }) => type).join(), codeOf),
    )
  }
  for (const [size, expected] of [
    [81_920, 'image/png,image/png'],
    [81_921, 'ERR_BAD_MULTIPART'],
    [90_000, 'ERR_BAD_MULTIPART'],
    [1_000_000, 'ERR_BAD_MULTIPART'],
  ] as const)
    for (const text of [part(size) + small, small + part(size)])
      for (const by of [101, 65_536, 81_923, 81_926, 2_000_000])
        assert.is(await read(`${text}--X--\r\n`, by), expected, `${size} by ${by}`)
  assert.is(await read(`--X\r\n${small}--X--\r\n`, 7), 'ERR_BAD_MULTIPART', 'a delimiter in place of a head')
  rmSync(directory, { recursive: true })
})

test('a line that begins with the boundary and goes on is refused, however it is cut: the parser would lose its part', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const type = (boundary: string) => `multipart/form-data; boundary=${boundary}`
  const part = (content: string, end = '--X--\r\n') =>
    `--X\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n${content}\r\n${end}`
  const read = async (text: string, size: number, boundary = 'X') => {
    async function* pieces() {
      for (let at = 0; at < text.length; at += size) yield Buffer.from(text.slice(at, at + size))
    }
    const reading = readUploads(pieces(), type(boundary), { directory })
    return within(
      10_000,
      reading.then(({ files }) => files.map((file) => file.size).join(), codeOf),
    )
  }
  for (const [text, expected, boundary] of [
    [part('a\r\n--Xy\r\nb'), 'ERR_BAD_MULTIPART'],
    [part('a', '--X \r\n--X--\r\n'), 'ERR_BAD_MULTIPART'],
    [`--X\t\r\n${part('a').slice(5)}`, 'ERR_BAD_MULTIPART'],
    [part('a\r\n--X-\r\nb'), 'ERR_BAD_MULTIPART'],
    [part('a\r\n--Xy\r\nb'), 'ERR_BAD_MULTIPART', '"\\X"; charset=x'],
    [part('a\r\n--x\r\nb\r--X\r\n-X\r\n -X\r\n--'), '26'],
    [part('a'), '1'],
    [`before\r\n${part('a')}--Xafter\r\n--Xafter`, '1'],
    [part(`${'a'.repeat(100_000)}\r\n--X:\r\n`), 'ERR_BAD_MULTIPART'],
  ] as const)
    for (const size of text.length > 1000 ? [1000, 65_536, 99_999, 200_000] : [1, 2, 3, 5, 7, 1000])
      assert.is(await read(text, size, boundary), expected, `${JSON.stringify(text).slice(0, 100)} by ${size}`)
  rmSync(directory, { recursive: true })
})

test('an input without a choice is no file; one without a name, or without a byte, is', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const part = (field: string, name: string, text: string) =>
    `--X\r\nContent-Disposition: form-data; name="${field}"; filename="${name}"\r\n\r\n${text}\r\n`
  const body = [part('none', '', ''), part('nameless', '', 'x'), part('empty', 'a.txt', ''), part('none', '', '')]
  const form = await readUploads(bytesOf(`${body.join('')}--X--\r\n`), TYPE, { directory })
  assert.equal(
    form.files.map(({ fieldName, name, size }) => [fieldName, name, size]),
    [
      ['nameless', '', 1],
      ['empty', 'a.txt', 0],
    ],
  )
  assert.is(readdirSync(directory).length, 2)
  await form.dispose()
  assert.equal(readdirSync(directory), [])
  rmSync(directory, { recursive: true })
})

test('it is its filename that makes a part a file: without one it is a field, whatever its type', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
  const part = (field: string, more: string, text: string) =>
    `--X\r\nContent-Disposition: form-data; name="${field}"${more}\r\nContent-Type: application/octet-stream\r\n\r\n${text}\r\n`
  const body = [
    part('a', '', 'x\u00e9'),
    part('b', '', ''),
    part('c', '; filename="c"', 'x'),
    part('d', '; filename=""', ''),
  ]
  const form = await readUploads(bytesOf(`${body.join('')}--X--\r\n`), TYPE, { directory })
  assert.equal(form.fields, [
    ['a', 'x\u00e9'],
    ['b', ''],
  ])
  assert.equal(
    form.files.map(({ fieldName, name, size }) => [fieldName, name, size]),
    [['c', 'c', 1]],
  )
  await form.dispose()
  rmSync(directory, { recursive: true })
})
/** How a request ends under its handler, which then wants to keep the file. */
const ENDS: Record<string, (connection: AnyConnection, client: Client) => unknown> = {
  'the answer is sent': (connection) => connection.send('thanks'),
  'the client resets': (_connection, { socket }) => void socket.resetAndDestroy(),
  'the connection is destroyed': (connection) => connection.destroy(),
}

const engines = [nodeEngine, nativeEngine()].filter((one) => one !== null)

for (const engine of engines)
  for (const [how, end] of Object.entries(ENDS)) {
    const inLength = caseTest(engine === engines[0])
    inLength(`${engine.name}: a handler at work has its files, and they go when it has settled: ${how}`, async () => {
      const directory = mkdtempSync(join(tmpdir(), 'millrace-uploads-'))
      const folder = join(directory, 'uploads')
      const outcomes: string[] = []
      let client: Client
      const onMessage = async (connection: AnyConnection, { files }: Request) => {
        const [kept, left] = files
        end(connection, client)
        await until(() => connection.getStatus(false) === 'CLOSED' || client.received.includes('thanks'))
        assert.equal(readdirSync(folder).length, 2)
        await kept?.move(join(directory, 'moved'))
        outcomes.push(readFileSync(left?.path ?? '', 'utf8'))
      }
      const protocol = http({ uploads: { directory: folder } })
      await withServer(engine, protocol, { onMessage } as never, async ({ connect, errors }) => {
        client = await connect()
        const body: Buffer[] = []
        for await (const bytes of form(2, 5)) body.push(bytes)
        const head = `POST / HTTP/1.1\r\nHost: h\r\nContent-Type: ${TYPE}\r\nContent-Length: ${Buffer.concat(body).length}`
        client.socket.write(`${head}\r\n\r\n`)
        client.socket.write(Buffer.concat(body))
        await until(() => outcomes.length + errors.length > 0)
        assert.equal([outcomes, errors], [['aaaaa'], []])
        await until(() => readdirSync(folder).length === 0)
      })
      assert.equal(readdirSync(directory), ['moved', 'uploads'])
      rmSync(directory, { recursive: true })
    })
  }

test.run()
