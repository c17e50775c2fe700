// The bench `websocket`: server CPU per echoed text of 32 bytes of millrace, beside the ws package. Flags and output:
// lib/echo-bench.mjs. Method: README.md. Memory of idle connections: websocket-memory.mjs.
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import WebSocket from 'ws'
import { runEchoBench } from './lib/echo-bench.mjs'

const BYTES = 32
const folder = mkdtempSync(join(tmpdir(), 'millrace-bench-ws-'))
const key = Buffer.from([1, 2, 3, 4])
const payload = Buffer.alloc(BYTES, 'abcdefghijklmnop')
const masked = Buffer.from(payload.map((byte, i) => byte ^ key[i % 4]))
writeFileSync(join(folder, 'frame'), Buffer.concat([Buffer.from([0x81, 0x80 | BYTES]), key, masked]))
writeFileSync(
  join(folder, 'handshake'),
  'GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n',
)

function answers(port) {
  return new Promise((resolve) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`)
    const settle = (value) => {
      socket.terminate()
      resolve(value)
    }
    socket.on('open', () => socket.send('ping'))
    socket.on('message', (data) => settle(String(data) === 'ping'))
    socket.on('error', () => settle(false))
  })
}

await runEchoBench({
  name: 'websocket',
  module: 'ws-echo.mjs',
  load: 'load',
  floor: 'floor',
  peers: { ws: ['ws-peer.mjs'] },
  cases: '1x1,64x1,64x16',
  compared: 'millrace,ws',
  answers,
  loadFlags: async () => {
    const reply = Buffer.concat([Buffer.from([0x81, BYTES]), payload])
    const told = ['-r', String(reply.length), '-x', reply.toString('hex')]
    return ['-q', join(folder, 'frame'), '-k', join(folder, 'handshake'), ...told]
  },
})
