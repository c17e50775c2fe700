// Upgrades under load: HTTP that keeps its connections, a text protocol, WebSockets, all at once. Nothing is lost but what
// the drain of a protocol without a goodbye cannot save (reload-load.test.ts), and nobody is reset.

import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { atLength, caseTest, longTest } from '../support/length.ts'
import { Load } from '../support/load/load.ts'
import { textClient } from '../support/load/text-client.ts'
import { webSocketClient } from '../support/load/websocket-client.ts'
import { RawWebSocket } from '../support/raw-websocket.ts'
import { upgrade } from '../support/release.ts'
import { inSandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

const program = (version: number, reusePort: boolean) => `
  import { Worker } from 'millrace'
  const options = { count: 2, drainTimeoutMs: 3000, reusePort: ${reusePort} }
  const text = new Worker('text://127.0.0.1:0', { name: 'text', ...options })
  text.onMessage = (connection, id) => connection.send(id + ' ' + process.pid)
  const http = new Worker('http://127.0.0.1:0', { name: 'http', ...options })
  let turn = 0
  http.onMessage = async (connection, request) => {
    if (++turn % 3 === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    connection.send(request.path.slice(1) + ' ${version}')
  }
  const ws = new Worker('websocket://127.0.0.1:0', { name: 'ws', ...options })
  ws.onMessage = (connection, message) => connection.send(message + ' ${version}')
  Worker.runAll()
`

/** What clients of one kind have seen. */
interface Tally {
  answered: number
  lost: string[]
  versions: Set<string>
}

const newTally = (): Tally => ({ answered: 0, lost: [], versions: new Set() })

/** Requests one after the other, on a connection for as long as the server keeps it. */
async function httpLane(port: number, lane: number, tally: Tally, isOver: () => boolean): Promise<void> {
  for (let n = 0; !isOver(); ) {
    const socket = net.connect(port, '127.0.0.1').setEncoding('latin1')
    let [received, end] = ['', '']
    socket.on('data', (text) => {
      received += text
    })
    socket.on('end', () => {
      end = 'closed'
    })
    socket.on('error', ({ message }) => {
      end = message
    })
    while (!isOver()) {
      const id = `${lane}-${n++}`
      received = ''
      socket.write(`GET /${id} HTTP/1.1\r\nHost: h\r\n\r\n`)
      await until(() => isWhole(received) || end !== '', 20_000)
      if (!received.includes(`\r\n\r\n${id} `)) {
        tally.lost.push(`${id}: ${end}`)
        break
      }
      tally.answered++
      tally.versions.add(received.at(-1) ?? '')
      if (/^connection: close/im.test(received)) break
      await sleep(8)
    }
    socket.destroy()
  }
}

function isWhole(response: string): boolean {
  const head = response.indexOf('\r\n\r\n')
  const [, length = ''] = /^content-length: (\d+)/im.exec(response) ?? []
  return head > 0 && response.length >= head + 4 + Number(length)
}

/** Messages one after the other. What crosses the server's close frame is not handled; any other end is a loss. */
async function websocketLane(port: number, tally: Tally, isOver: () => boolean): Promise<void> {
  const message = Buffer.from([0x81, 0x81, 0, 0, 0, 0, 0x78])
  while (!isOver()) {
    const socket = await RawWebSocket.open(port)
    for (let n = 1; !isOver(); n++) {
      await socket.write(message)
      await until(() => socket.of('text').length === n || socket.of('close', 'fin', 'reset').length > 0, 20_000)
      const echo = socket.of('text')[n - 1]
      if (echo === undefined) break
      tally.answered++
      tally.versions.add(String(echo.payload).slice(-1))
      await sleep(8)
    }
    const [end] = socket.of('close', 'fin', 'reset')
    if (end !== undefined && (end.kind !== 'close' || end.payload.readUInt16BE(0) !== 1012))
      tally.lost.push(`${end.kind} ${end.payload.toString('hex')}`)
    socket.destroy()
  }
}

const withAddon = [{ engine: 'native', reusePort: true }]
for (const { engine, reusePort } of [
  ...(addon().sys === null ? [] : withAddon),
  { engine: 'node', reusePort: false },
]) {
  caseTest(reusePort === (addon().sys !== null))(
    `upgrades under load lose nothing: ${engine} engine${reusePort ? ', reusePort' : ''}`,
    async () => {
      await inSandbox(async (box) => {
        const module = box.file('app.js', program(0, reusePort))
        const [text, http, ws] = (await box.start(module, '--engine', engine)).groups.map(({ port }) => port)
        const load = new Load()
        const tally = load.add('text', 6, textClient({ port: text ?? 0, thinkMs: () => 8 }))
        load.add('text', 2, textClient({ port: text ?? 0, thinkMs: () => 8, answersPerConnection: 1 }))
        let isOver = false
        const tallies = { http: newTally(), ws: newTally() }
        const lanes = Array.from({ length: 5 }, (_, lane) => [
          httpLane(http ?? 0, lane, tallies.http, () => isOver),
          websocketLane(ws ?? 0, tallies.ws, () => isOver),
        ]).flat()
        let discarded = 0
        for (const version of [1, 2].slice(0, atLength(1, 2))) {
          box.file('app.js', program(version, reusePort))
          const { slots } = await upgrade(box, module)
          for (const slot of slots) {
            assert.is(slot.note, '')
            discarded += slot.discarded
          }
          const seen = Object.values(tallies)
          await until(() => seen.every(({ versions }) => versions.has(String(version))), 20_000)
        }
        isOver = true
        await Promise.all([load.end(), ...lanes])
        const { answered, crossedConnections, lost } = tally
        console.log({
          text: answered,
          http: tallies.http.answered,
          ws: tallies.ws.answered,
          crossedConnections,
          discarded,
        })
        assert.equal([lost, tallies.http.lost, tallies.ws.lost], [[], [], []])
        assert.ok(crossedConnections <= discarded, 'a request was dropped that the server does not name')
        await box.stop()
      })
    },
  )
}

longTest('of what workers publish to each other while all of them leave for an upgrade nothing is lost', async () => {
  await inSandbox(async (box) => {
    const code = `
      import { Channel, Worker } from 'millrace'
      const worker = new Worker('websocket://127.0.0.1:0', { name: 'chat', count: 3 })
      worker.onWorkerStart = () => Channel.subscribe('room', () => {})
      worker.onMessage = (connection, id) => {
        Channel.publish('room', id)
        connection.send(id + ' ' + process.pid)
      }
      Worker.runAll()`
    const module = box.file('app.js', code)
    const [port = 0] = (await box.start(module)).groups.map((group) => group.port)
    const load = new Load()
    const tally = load.add('ws', 20, webSocketClient({ port, thinkMs: () => 20 }))
    for (let n = 0; n < 6; n++) {
      const { answered } = tally
      await upgrade(box, module)
      await until(() => tally.answered > answered + 200, 20_000)
    }
    await load.end()
    assert.equal(tally.lost, [])
    assert.not.match(box.log(), /a message was not handled|unfinished/)
    await box.stop()
  })
})

test.run()
