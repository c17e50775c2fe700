// The examples, as built into dist/examples, each run by the real start file and used for what it is for. Only the port
// is changed to one that is free.

import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { AsyncTcpConnection, AsyncUdpConnection } from '../src/index.ts'
import { Authority } from './support/certificates.ts'
import { example, folder } from './support/examples.ts'
import { ask, Client, inSandbox, portOf } from './support/server.ts'
import { until } from './support/until.ts'

test('every example has a test, here or in examples-messaging.test.ts', () => {
  const names = (readdirSync(folder, { recursive: true }) as string[]).filter((file) => file.endsWith('.js'))
  assert.equal(names.sort(), [
    'chat/chat.js',
    'devices.js',
    'gateway.js',
    'hello.js',
    'image-upload/image-upload.js',
    'json-lines.js',
    'rooms.js',
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
    await box.operate({ command: 'reload' })
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
    await box.operate({ command: 'reload' })
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

test.run()
