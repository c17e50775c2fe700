// The examples whose processes talk to each other: run by the real start file, used for what they are for, and killed.

import { readFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import sharp from 'sharp'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { AsyncTcpConnection } from '../src/index.ts'
import { example, folder } from './support/examples.ts'
import { atLength } from './support/length.ts'
import { withNats } from './support/nats.ts'
import { Client, freePort, inSandbox, portOf, workersOf } from './support/server.ts'
import { until } from './support/until.ts'

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

test('rooms: what is said on one server is heard on the others', async () => {
  await inSandbox((one) =>
    inSandbox((other) =>
      withNats(one, async (nats) => {
        const clients: Client[] = []
        for (const box of [one, other]) {
          box.env.NATS = nats.url
          const status = await box.start(example(box, 'rooms'))
          await until(() => (box.log().match(/connected to NATS/g) ?? []).length === 2)
          clients.push(await Client.connect(portOf(status)))
        }
        for (const client of clients) {
          client.socket.write('hello\n/join lobby\n')
          assert.is(await client.line(), 'Say /join <room>, then talk.')
          assert.is(await client.line(), 'Say /join <room> first.')
          assert.is(await client.line(), 'You are in lobby.')
        }
        clients[0]?.socket.write('good morning\n')
        for (const client of clients) {
          assert.match(await client.line(), /: good morning$/)
          client.socket.destroy()
        }
        await Promise.all([one.stop(), other.stop()])
      }),
    ),
  )
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

/** Of the images that are uploaded: theirs is 4:3. */
const SIZE = atLength(250, 500)

test('image-upload: thumbnails of all images, though their makers, the leader and the keeper are killed', async () => {
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
    const image = await sharp({ create: { width: 4 * SIZE, height: 3 * SIZE, channels: 3, background: '#888', noise } })
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
    // The process that keeps what is known of them, and with it that: it is found again on the disk.
    const keepers = box.pids().filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('keeper'))
    assert.is(keepers.length, 1)
    process.kill(keepers[0] ?? 0, 'SIGKILL')
    await until(() => page.isClosed, 20_000)
    await until(() => {
      if (page.isClosed) page = new Page(`ws://127.0.0.1:${port}/`)
      return ids.every(isComplete) && page.last((one) => one.id === broken && one.error !== undefined)
    }, 60_000)
    assert.is(page.last((one) => one.id === ids[0])?.name, 'a.jpg')
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
