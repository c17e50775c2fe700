// A server behind a proxy that says who its client is: HAProxy as the stranger, liars, and those who say nothing.

import { readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Authority } from '../support/certificates.ts'
import { caseTest, longTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import { ask, Client, freePort, inSandbox, portOf, type Running, type Sandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

function program(from: readonly string[], more = '', listen = 'text://127.0.0.1:0'): string {
  return `
    import { Worker } from 'millrace'
    const worker = new Worker('${listen}', { name: 'behind', proxyProtocol: { from: ${JSON.stringify(from)}, timeoutMs: 300 } })
    worker.onMessage = (connection, line) => connection.send([line, connection.getRemoteIp(), connection.getLocalPort(),
      connection.proxy?.uniqueId ?? '', connection.proxy?.authority ?? '', connection.tls?.version ?? ''].join(' '))
    ${more}
    Worker.runAll()`
}

/** HAProxy in front of `backend`, on a port of its own. */
async function haproxy(box: Sandbox, backend: string): Promise<{ port: number; process: Running }> {
  const port = await freePort()
  const config = join(box.directory, `haproxy-${port}.cfg`)
  writeFileSync(
    config,
    `defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend in
  bind 127.0.0.1:${port}
  unique-id-format id-%ci
  default_backend out
backend out
  server one ${backend}
`,
  )
  const process = box.spawn('haproxy', ['-db', '-f', config])
  await until(() =>
    ask(port, 'x').then(
      () => true,
      () => process.process.exitCode !== null,
    ),
  )
  return { port, process }
}

/** From another loopback address: what the server must see. */
async function askFrom(ip: string, port: number, line: string): Promise<string> {
  const socket = net.connect({ port, host: '127.0.0.1', localAddress: ip })
  let answer = ''
  socket.on('data', (bytes) => {
    answer += bytes
  })
  socket.write(`${line}\n`)
  await until(() => answer.endsWith('\n'))
  socket.destroy()
  return answer.trim()
}

for (const [what, flags, id] of [
  ['v1', 'send-proxy', ''],
  ['v2', 'send-proxy-v2', ''],
  ['v2 with an id and a checksum', 'send-proxy-v2 proxy-v2-options unique-id,crc32c', 'id-127.0.0.9'],
] as const) {
  caseTest(what !== 'v2')(`HAProxy, ${what}: the client's address is the connection's`, async () => {
    await inSandbox(async (box) => {
      const backend = portOf(await box.start(box.file('app.js', program(['127.0.0.1']))))
      const { port, process } = await haproxy(box, `127.0.0.1:${backend} ${flags}`)
      assert.is(await askFrom('127.0.0.9', port, 'hello'), `hello 127.0.0.9 ${port} ${id}`.trim())
      box.file('app.js', program(['127.0.0.1']))
      await reload(box)
      assert.match(await askFrom('127.0.0.8', port, 'again'), /^again 127\.0\.0\.8 /)
      process.process.kill()
      await process.ended
      await box.stop()
    })
  })
}

test('what onConnect sends is counted in bytes, although it is handled in the read that had the header', async () => {
  await inSandbox(async (box) => {
    const counts = `worker.onConnect = (connection) => {
      for (const text of ['\u20ac1', '\u20ac2', '\u20ac3']) connection.send(text)
      connection.send('bytes ' + connection.bytesWritten)
    }`
    const client = await Client.connect(portOf(await box.start(box.file('app.js', program(['127.0.0.1'], counts)))))
    client.send('PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r')
    const lines = [await client.line(), await client.line(), await client.line(), await client.line()]
    assert.equal(lines, ['\u20ac1', '\u20ac2', '\u20ac3', 'bytes 15'])
    client.close()
    await box.stop()
  })
})

test('HAProxy over a Unix socket, and its health checks', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 's.sock')
    await box.start(
      box.file(
        'app.js',
        program(['unix'], '', `unix://${path}`)
          .replace('(connection, line)', '(connection, bytes, line = String(bytes).trim())')
          .replace("join(' '))", "join(' ') + '\\n')"),
      ),
    )
    const { port, process } = await haproxy(box, `unix@${path} send-proxy-v2 check inter 20ms`)
    assert.match(await askFrom('127.0.0.7', port, 'hi'), /^hi 127\.0\.0\.7 /)
    assert.is((await box.status()).totals.protocolErrors, 0)
    process.process.kill()
    await process.ended
    await box.stop()
  })
})

test('TLS behind the header: first the address, then the handshake', async () => {
  const authority = new Authority()
  const certificate = authority.issue('localhost')
  await inSandbox(async (box) => {
    const more = `worker.transport = 'ssl'; worker.ssl = ${JSON.stringify(certificate)}`
    const port = portOf(await box.start(box.file('app.js', program(['127.0.0.1'], more))))
    const raw = net.connect(port, '127.0.0.1')
    raw.write('PROXY TCP4 203.0.113.5 203.0.113.6 1000 443\r\n')
    const client = tls.connect({ socket: raw, servername: 'localhost', ca: readFileSync(authority.caFile) })
    let answer = ''
    client.on('data', (bytes) => {
      answer += bytes
    })
    client.write('x\n')
    await until(() => answer.endsWith('\n'))
    assert.match(answer, /^x 203\.0\.113\.5 443 .*TLSv1\.3/)
    client.destroy()
    await box.stop()
  })
  authority.remove()
})

test('byte by byte, and with the first message in one piece', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program(['127.0.0.0/8']))))
    const header = 'PROXY TCP6 2001:db8::1 2001:db8::2 1000 80\r\n'
    const slow = await Client.connect(port)
    for (const byte of `${header}one\n`) {
      slow.socket.write(byte)
      await new Promise(setImmediate)
    }
    assert.match(await slow.line(), /^one 2001:db8::1 80/)
    assert.match(await slow.ask('two'), /^two 2001:db8::1 80/)
    const once = await Client.connect(port)
    once.socket.write(`${header}three\nfour\n`)
    assert.match(await once.line(), /^three 2001:db8::1/)
    assert.match(await once.line(), /^four 2001:db8::1/)
    for (const client of [slow, once]) client.close()
    await box.stop()
  })
})

test('who is not trusted is refused; who says nothing, or nonsense, is closed; all are counted, nobody else is disturbed', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program(['127.0.0.1']))))
    const liar = net.connect({ port, host: '127.0.0.1', localAddress: '127.0.0.2' }).on('error', () => undefined)
    liar.write('PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\nx\n')
    liar.resume()
    await until(() => liar.closed)
    assert.is((await box.status()).totals.refused, 1)
    const silent = await Client.connect(port)
    const nonsense = await Client.connect(port)
    nonsense.socket.write('GET / HTTP/1.1\r\n\r\n')
    const endless = await Client.connect(port)
    endless.socket.write('PROXY TCP4 '.padEnd(1_000_000, '1'))
    const half = await Client.connect(port)
    half.socket.end('PROXY TC')
    const check = await Client.connect(port)
    check.socket.end()
    for (const client of [silent, nonsense, endless, half, check]) await until(() => client.isClosed)
    await until(async () => (await box.status()).totals.protocolErrors === 4)
    assert.match(box.log(), /refused 127\.0\.0\.2:\d+: it is no proxy of ours/)
    assert.match(box.log(), /127\.0\.0\.1:\d+: bad PROXY header: it did not come in time/)
    assert.is(workersOf(await box.status())[0]?.work, '')
    const good = await Client.connect(port)
    good.socket.write('PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\nfine\n')
    assert.match(await good.line(), /^fine 1\.1\.1\.1/)
    good.close()
    await box.stop()
  })
})

test('limits count the clients, not the proxy', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program(['127.0.0.1'], 'worker.maxConnectionsPerIp = 1'))))
    const from = async (ip: string) => {
      const client = await Client.connect(port)
      client.socket.write(`PROXY TCP4 ${ip} 1.1.1.1 1 1\r\nx\n`)
      return client
    }
    const [first, second, third] = [await from('9.9.9.1'), await from('9.9.9.2'), await from('9.9.9.1')]
    assert.match(await first.line(), /^x 9\.9\.9\.1/)
    assert.match(await second.line(), /^x 9\.9\.9\.2/)
    await until(() => third.isClosed)
    for (const client of [first, second]) client.close()
    await box.stop()
  })
})

longTest('a network that is none is refused at the start', async () => {
  await inSandbox(async (box) => {
    const { code, stderr } = await box.command('check', box.file('app.js', program(['10.0.0.0/99'])))
    assert.is(code, 6)
    assert.match(stderr, /proxyProtocol\.from: '10\.0\.0\.0\/99' is no address and no network/)
  })
})

test.run()
