// The clients of a process that leaves: they say goodbye last of all, and do not come back.

import { once } from 'node:events'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type WebSocket, WebSocketServer } from 'ws'
import { addon } from '../../src/addon.ts'
import { caseTest } from '../support/length.ts'
import { Client, echo, inSandbox, portOf } from '../support/server.ts'
import { until } from '../support/until.ts'

interface Upstream {
  readonly port: number
  /** What each client has said, and how it has ended. */
  readonly heard: string[]
}

/** Servers for lines and for WebSockets, which note what they hear. */
async function withUpstreams(use: (lines: Upstream, webSockets: Upstream) => Promise<void>): Promise<void> {
  const lines: string[] = []
  const sockets: net.Socket[] = []
  const server = net.createServer((socket) => {
    const at = lines.push('') - 1
    sockets.push(socket)
    const note = (what: Buffer | string | Error) => {
      lines[at] = `${lines[at]}${what}`
    }
    socket.on('data', note).on('end', () => note('FIN'))
    socket.on('error', note).write('job\n')
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const ends: string[] = []
  const webSockets = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  webSockets.on('connection', (socket: WebSocket) => {
    const at = ends.push('') - 1
    socket.on('close', (code) => {
      ends[at] = `close ${code}`
    })
  })
  await once(webSockets, 'listening')
  try {
    await use(
      { port: (server.address() as net.AddressInfo).port, heard: lines },
      { port: (webSockets.address() as net.AddressInfo).port, heard: ends },
    )
  } finally {
    server.close()
    webSockets.close()
    for (const socket of sockets) socket.destroy()
    for (const socket of webSockets.clients) socket.terminate()
  }
}

/** A codec whose goodbye is a line. */
const POLITE = `
  const polite = {
    name: 'polite',
    open: (io) => ({
      receive: (bytes) => io.emit(String(bytes)),
      resumed() {},
      send: (message) => io.write(message),
      drain: () => io.write('DISCONNECT '),
      timeout() {},
      closed: (reason) => Worker.log('codec closed ' + reason),
    }),
  }`

const clientsOf = (lines: Upstream, webSockets: Upstream) => `
  import { AsyncTcpConnection } from 'millrace'
  ${POLITE}
  const clients = [
    new AsyncTcpConnection('tcp://127.0.0.1:${lines.port}', { protocol: polite }),
    new AsyncTcpConnection('text://127.0.0.1:${lines.port}'),
    new AsyncTcpConnection('ws://127.0.0.1:${webSockets.port}'),
  ]
  for (const client of clients) {
    client.onClose = () => {
      Worker.log('client closed ' + client.protocol.name + ' ' + client.closeReason)
      client.reconnect()
      client.send('does not wait')
    }
    client.onError = (_client, code, message) => Worker.log('client error ' + code + ' ' + message)
  }
  worker.onWorkerStart = () => { for (const client of clients) client.connect() }`

for (const engine of addon().newEngine === null ? ['node'] : ['native', 'node'])
  caseTest(engine !== 'node' || addon().newEngine === null)(
    `when all else is done, clients say goodbye and close, and none connects again: ${engine}`,
    async () => {
      await withUpstreams(async (lines, webSockets) => {
        await inSandbox(async (box) => {
          const more = `${clientsOf(lines, webSockets)}
            worker.drainTimeoutMs = 60_000
            worker.onMessage = async (connection) => {
              connection.send('begun')
              await new Promise((resolve) => worker.signal.addEventListener('abort', () => setTimeout(resolve, 100)))
              clients[0].send('still open ')
              connection.send('done')
            }`
          const client = await Client.connect(
            portOf(await box.start(box.file('app.js', echo(1, more)), '--engine', engine)),
          )
          await until(() => lines.heard.length === 2 && webSockets.heard.length === 1)
          assert.is(await client.ask('work'), 'begun')
          const stopping = box.stop('-g')
          assert.is(await client.line(), 'done')
          client.close()
          await stopping
          await until(() => lines.heard.every((said) => said.endsWith('FIN')))
          assert.equal(lines.heard.toSorted(), ['FIN', 'still open DISCONNECT FIN'])
          assert.equal(webSockets.heard, ['close 1001'])
          for (const name of ['polite', 'text', 'websocket'])
            assert.match(box.log(), new RegExp(`client closed ${name} stopped\\n`))
          assert.match(box.log(), /codec closed stopped/)
          assert.is(box.log().match(/client error 2 connection is closed/g)?.length, 3)
        })
      })
    },
  )

test('the signal of a client aborts when the time is nearly up, and one that is at work until the end is closed', async () => {
  await withUpstreams(async (lines, webSockets) => {
    await inSandbox(async (box) => {
      const more = `${clientsOf(lines, webSockets)}
        Worker.stopTimeout = 1
        clients[1].onMessage = (client) => new Promise(() => {
          client.signal.addEventListener('abort', () => Worker.log('client told ' + client.signal.reason.code))
        })
        `
      await box.start(box.file('app.js', echo(1, more)))
      await until(() => lines.heard.length === 2 && webSockets.heard.length === 1)
      await box.stop()
      assert.match(box.log(), /client told ERR_WORKER_STOPPING\n(.*\n)*.*leaves with 1 unsettled handler unfinished\n/)
      for (const name of ['polite stopped', 'text closed', 'websocket stopped'])
        assert.match(box.log(), new RegExp(`client closed ${name}\\n`))
      await until(() => lines.heard.every((said) => said.endsWith('FIN')))
      assert.equal(lines.heard.toSorted(), ['DISCONNECT FIN', 'FIN'])
      assert.equal(webSockets.heard, ['close 1001'])
    })
  })
})

test('a client that connects while others say goodbye does so, too; one that had planned to connect does not', async () => {
  const heard: string[] = []
  const open: net.Socket[] = []
  let connect: () => unknown = () => undefined
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    const at = heard.push('') - 1
    open.push(socket)
    socket
      .on('error', () => undefined)
      .on('end', () => {
        heard[at] = `${heard[at]}FIN`
        connect() // the first one has said goodbye, and waits for its server to close
      })
    socket.on('data', (bytes) => {
      heard[at] = `${heard[at]}${bytes}`
      if (String(bytes).startsWith('CONNECT')) connect = () => socket.write('HTTP/1.1 200 OK\r\n\r\n')
    })
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as net.AddressInfo
  try {
    await inSandbox(async (box) => {
      const more = `
        import { AsyncTcpConnection } from 'millrace'
        ${POLITE}
        const open = new AsyncTcpConnection('tcp://127.0.0.1:${port}', { protocol: polite })
        const connecting = new AsyncTcpConnection('tcp://late.example:1', { protocol: polite, proxyHttp: '127.0.0.1:${port}' })
        const planned = new AsyncTcpConnection('text://127.0.0.1:${port}')
        worker.onWorkerStart = () => { open.connect(); connecting.connect() }
        worker.onWorkerStop = () => planned.reconnect(0.1)`
      await box.start(box.file('app.js', echo(1, more)))
      await until(() => heard.length === 2 && heard.join('').endsWith('\r\n\r\n'))
      await box.stop('-g')
      await until(() => heard.every((said) => said.endsWith('FIN')))
      const said = heard.map((each) => each.replace(/^CONNECT .*\r\n\r\n/s, 'proxied '))
      assert.equal(said.toSorted(), ['DISCONNECT FIN', 'proxied DISCONNECT FIN'])
    })
  } finally {
    server.close()
    for (const socket of open) socket.destroy()
  }
})

test.run()
