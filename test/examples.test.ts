// The examples, as built into dist/examples, each run by the real start file and used for what it is for. Only the port
// is changed to one that is free.

import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import net from 'node:net'
import { dirname, join } from 'node:path'
import sharp from 'sharp'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { AsyncTcpConnection, AsyncUdpConnection } from '../src/index.ts'
import { Authority } from './support/certificates.ts'
import {
  ask,
  Client,
  freePort,
  inSandbox,
  portOf,
  type Sandbox,
  startFile,
  succeeded,
  workersOf,
} from './support/server.ts'
import { until } from './support/until.ts'

const folder = join(startFile, '../examples')

/** A copy of an example on a free port, with the page that lies beside it. */
function example(box: Sandbox, name: string): string {
  const source = readFileSync(join(folder, `${name}.js`), 'utf8')
  const page = join(folder, dirname(name), 'page.html')
  if (existsSync(page)) box.file(join(dirname(name), 'page.html'), readFileSync(page, 'utf8'))
  assert.match(source, /:\/\/[\d.]+:8888/)
  return box.file(`${name}.js`, source.replaceAll(/:\/\/[\d.]+:8888/g, '://127.0.0.1:0'))
}

test('every example has a test here', () => {
  const names = (readdirSync(folder, { recursive: true }) as string[]).filter((file) => file.endsWith('.js'))
  assert.equal(names.sort(), [
    'chat/chat.js',
    'devices.js',
    'gateway.js',
    'hello.js',
    'image-upload/image-upload.js',
    'json-lines.js',
    'singleton.js',
    'site.js',
    'task-workers.js',
    'tcp-proxy.js',
    'timers.js',
    'tls.js',
    'udp.js',
  ])
})

test('hello: the founding program greets, from four processes', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(example(box, 'hello'))
    assert.is(status.groups[0]?.workers.length, 4)
    const client = await Client.connect(portOf(status))
    client.socket.write('world\n')
    assert.is(await client.line(), 'Hello, world')
    client.socket.destroy()
    await box.stop()
  })
})

test('json-lines: a protocol plugin answers, and broken JSON costs one connection', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(example(box, 'json-lines')))
    const good = await Client.connect(port)
    const bad = await Client.connect(port)
    bad.send('{"op":')
    await until(() => bad.isClosed)
    good.send('{"op":"add","a":1,"b":2}')
    assert.is(await good.line(), '{"result":3}')
    assert.match(box.log(), /error 3: .*JSON/)
    good.socket.destroy()
    await box.stop()
  })
})

test('timers: a login stops the deadline, and the ticker runs in one process', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(example(box, 'timers')))
    const client = await Client.connect(port)
    assert.is(await client.line(), 'say "login"')
    client.send('login')
    assert.is(await client.line(), 'welcome')
    assert.is(await client.line(), 'still there?')
    await until(() => box.log().includes('tick'))
    assert.not.match(box.log(), /timers:1\] tick/)
    client.socket.destroy()
    await box.stop()
  })
})

test('gateway: a device must introduce itself, is heard, and is told BYE when its worker leaves', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(example(box, 'gateway')))
    const stranger = await Client.connect(port)
    stranger.send('DATA 1')
    await until(() => stranger.isClosed)
    const device = await Client.connect(port)
    device.socket.write('HELLO boi')
    device.socket.write('ler-7\nDATA {"celsius":81}\n')
    assert.is(await device.line(), 'WELCOME')
    assert.is(await device.line(), 'OK')
    await until(() => /boiler-7 is here[\s\S]*boiler-7: {"celsius":81}/.test(box.log()))
    succeeded(await box.command('reload'))
    assert.is(await device.line(), 'BYE')
    await until(() => device.isClosed)
    await box.stop()
  })
})

test('singleton: after a reload only the new version does the job', async () => {
  await inSandbox(async (box) => {
    const path = example(box, 'singleton')
    const port = portOf(await box.start(path))
    await until(() => box.log().includes('job of version 1, process 1'))
    box.file('singleton.js', readFileSync(path, 'utf8').replace('VERSION = 1', 'VERSION = 2'))
    succeeded(await box.command('reload'))
    await until(() => box.log().includes('job of version 2, process 2'))
    assert.not.match(box.log().split('version 2')[1] ?? '', /job of version 1/)
    assert.is(await ask(port, 'hi'), 'version 2: hi')
    await box.stop()
  })
})

test('devices: binary packets are read and answered, and nonsense costs one connection', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(example(box, 'devices')))
    const say = async (bytes: string, answer: number) => {
      const socket = net.connect(port, '127.0.0.1').on('error', () => undefined)
      let received = Buffer.alloc(0)
      socket.on('data', (chunk) => {
        received = Buffer.concat([received, chunk])
      })
      socket.write(Buffer.from(bytes, 'latin1'))
      await until(() => received.length === answer || socket.closed)
      socket.destroy()
      return received.toString('hex')
    }
    assert.is(await say('\0\x07\x01\0\0\0\x2a', 5), '000581003c')
    assert.is(await say('\0\x09\x02\0\0\0\x2a\x03\x35', 5), '0005820001')
    assert.is(await say('\0\x04\x01\0', 5), '')
    assert.is(await say('\0\x07\x09\0\0\0\x2a', 5), '')
    await until(() => box.log().includes('device 42: 82.1 degrees'))
    await box.stop()
  })
})

test('tls: a line is answered under TLS', async () => {
  const authority = new Authority()
  const { certFile, keyFile } = authority.issue('localhost')
  await inSandbox(async (box) => {
    Object.assign(box.env, { CERT_FILE: certFile, KEY_FILE: keyFile })
    const port = portOf(await box.start(example(box, 'tls')))
    const client = new AsyncTcpConnection(`text://localhost:${port}`, {
      transport: 'ssl',
      ssl: { caFile: authority.caFile },
    })
    const answer = new Promise<string>((resolve) => {
      client.onMessage = (_connection, line) => resolve(line)
    })
    client.send('hi')
    client.connect()
    assert.match(await answer, /^hi: TLSv1\.3, TLS_/)
    client.destroy()
    await box.stop()
  })
  authority.remove()
})

test('tcp-proxy: bytes go through it, both ways', async () => {
  await inSandbox(async (box) => {
    const upstream = net.createServer((socket) => socket.pipe(socket)).listen(0, '127.0.0.1')
    await once(upstream, 'listening')
    box.env.UPSTREAM = `tcp://127.0.0.1:${(upstream.address() as net.AddressInfo).port}`
    const client = await Client.connect(portOf(await box.start(example(box, 'tcp-proxy'))))
    assert.is(await client.ask('there and back'), 'there and back')
    client.close()
    upstream.close()
    await box.stop()
  })
})

test('site: a page, an upload and a chat on one port', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(example(box, 'site')))
    assert.match(await (await fetch(`http://127.0.0.1:${port}/`)).text(), /<h1>One port/)
    const form = new FormData()
    form.set('file', new File(['12345'], 'a.txt'))
    const answer = await fetch(`http://127.0.0.1:${port}/upload`, { method: 'POST', body: form })
    assert.equal(await answer.json(), { name: 'a.txt', size: 5 })
    const lines: unknown[] = []
    const guest = new AsyncTcpConnection(`ws://127.0.0.1:${port}/chat?name=ann`)
    guest.onMessage = (_guest, line) => lines.push(line)
    guest.send('hello')
    guest.connect()
    await until(() => lines.length === 2)
    assert.equal(lines, ['ann has come', 'ann: hello'])
    guest.close()
    await box.stop()
  })
})

test('udp: a statsd sink counts what comes as datagrams, and a broken one harms nobody', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(example(box, 'udp')))
    const answers: string[] = []
    const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`)
    client.onMessage = (_client, message) => answers.push(String(message))
    for (const datagram of ['logins:1|c', 'rubbish', 'logins:2|c\nqueue:17|g\nquery:12.5|ms', '?'])
      client.send(datagram)
    await until(() => answers.length === 1)
    assert.equal(answers, ['logins=3 queue=17 query.count=1 query.sum_ms=12.5'])
    client.close()
    await box.stop()
    assert.match(box.log(), /error 3: 'rubbish' is no metric/)
    assert.match(box.log(), /at the end: logins=3/)
  })
})

test('task-workers: workers reach each other by number, and the same ones serve clients', async () => {
  await inSandbox(async (box) => {
    const port = await freePort()
    const source = readFileSync(join(folder, 'task-workers.js'), 'utf8')
    const server = await box.foreground(box.file('task-workers.js', source.replace(':5678', `:${port}`)))
    await server.says(/UploadWorker 0: TaskWorker [0-3] got 'Upload message' from a worker/)
    await server.says(/UploadWorker 1: TaskWorker [0-3] got 'Upload message' from a worker/)
    const client = net.connect(port, '127.0.0.1')
    let answer = ''
    client.setEncoding('utf8').on('data', (text) => {
      answer += text
    })
    client.write('hello')
    await until(() => /^TaskWorker [0-3] got 'hello' from a client$/.test(answer))
    client.destroy()
    await server.end('SIGTERM')
  })
})

/** What the server tells a page. */
class Page {
  readonly messages: Record<string, unknown>[] = []
  readonly connection: AsyncTcpConnection<`ws://${string}`>
  isClosed = false

  constructor(url: `ws://${string}`) {
    this.connection = new AsyncTcpConnection(url)
    this.connection.onMessage = (_connection, text) => this.messages.push(JSON.parse(String(text)))
    this.connection.onClose = () => {
      this.isClosed = true
    }
    this.connection.connect()
  }

  /** The last message that is so. */
  last(isMeant: (message: Record<string, unknown>) => unknown): Record<string, unknown> | undefined {
    return this.messages.findLast(isMeant)
  }
}

test('image-upload: thumbnails of all images, though the workers that make them and the leader are killed', async () => {
  await inSandbox(async (box) => {
    box.env.IMAGES_DIR = join(box.directory, 'images')
    const { groups } = await box.start(example(box, 'image-upload/image-upload'))
    const port = groups.find(({ name }) => name === 'site')?.port ?? 0
    const site = `http://127.0.0.1:${port}`
    assert.match(await (await fetch(`${site}/`)).text(), /<h1>Image upload/)
    let page = new Page(`ws://127.0.0.1:${port}/`)
    const upload = async (name: string, bytes: Uint8Array) => {
      const form = new FormData()
      form.set('image', new File([bytes], name))
      const answer = await fetch(`${site}/images`, { method: 'POST', body: form })
      return ((await answer.json()) as { id: string }).id
    }
    const noise = { type: 'gaussian', mean: 128, sigma: 60 } as const
    const image = await sharp({ create: { width: 2000, height: 1500, channels: 3, background: '#888', noise } })
      .jpeg()
      .toBuffer()
    const ids = await Promise.all(['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg'].map((name) => upload(name, image)))
    const broken = await upload('notes.txt', Buffer.from('no image'))
    const made = ({ thumbnails }: Record<string, unknown>) => Object.keys(thumbnails ?? {})
    await until(() => page.last((one) => made(one).length > 0), 60_000)
    const makers = groups.find(({ name }) => name === 'thumbnails')?.workers ?? []
    for (const { pid } of makers) process.kill(pid, 'SIGKILL')
    const leader = (await box.status()).leaders[0]?.pid ?? 0
    process.kill(leader, 'SIGKILL')
    const isComplete = (id: string) => page.last((one) => one.id === id && made(one).length === 3)
    await until(() => {
      if (page.isClosed) page = new Page(`ws://127.0.0.1:${port}/`) // as a page does: its process may have been the leader
      return ids.every(isComplete) && page.last((one) => one.id === broken && one.error !== undefined)
    }, 60_000)
    assert.equal(made(isComplete(ids[0] ?? '') ?? {}), ['160', '320', '640'])
    const file = await fetch(`${site}/thumbnails/${ids[0]}-320.webp`)
    const { width, height, format } = await sharp(Buffer.from(await file.arrayBuffer())).metadata()
    assert.equal([width, height, format], [320, 240, 'webp'])
    assert.is((await fetch(`${site}/images`, { method: 'POST', body: new FormData() })).status, 400)
    assert.is((await fetch(`${site}/originals/${ids[0]}`)).status, 404)
    page.connection.destroy()
    await box.stop()
  })
})

test('chat: a room over several processes, its last lines, who is there; one process is killed', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(example(box, 'chat/chat'))
    const port = portOf(status)
    const enter = async (name: string, room = 'den') => {
      const page = new Page(`ws://127.0.0.1:${port}/?room=${room}&name=${name}`)
      await until(() => page.last(({ worker }) => worker !== undefined))
      return page
    }
    const workerOf = (page: Page) => page.last(({ worker }) => worker !== undefined)?.worker
    const said = (page: Page) =>
      page.messages.flatMap(({ lines = [] }) => (lines as { text: string }[]).map(({ text }) => text))
    assert.match(await (await fetch(`http://127.0.0.1:${port}/`)).text(), /<title>Chat/)
    const ann = await enter('ann')
    const others = [await enter('bob')]
    while (others.every((page) => workerOf(page) === workerOf(ann))) others.push(await enter('bob'))
    const bob = others.at(-1) as Page
    const elsewhere = await enter('eve', 'attic')
    ann.connection.send('hello')
    bob.connection.send('hi, ann')
    await until(() => said(bob).includes('hello') && said(ann).includes('hi, ann'))
    assert.equal(ann.last(({ people }) => people !== undefined)?.people, ['ann', 'bob'])
    assert.equal(said(elsewhere), [])
    process.kill(workersOf(status)[Number(workerOf(bob))]?.pid ?? 0, 'SIGKILL')
    await until(() => bob.isClosed)
    const again = await enter('bob')
    assert.equal([...said(again)].sort(), ['hello', 'hi, ann'])
    ann.connection.send('welcome back')
    await until(() => said(again).includes('welcome back'))
    for (const page of [ann, again, elsewhere, ...others]) page.connection.destroy()
    await box.stop()
  })
})

test.run()
