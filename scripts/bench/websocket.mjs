// The bench `websocket`: server CPU per echoed text of 32 bytes of millrace, beside the ws package, Bun, and a C floor
// that answers each block of that many bytes with a fixed one. Flags and output: lib/echo-bench.mjs. Memory of idle
// connections: idle.mjs.
import { runEchoBench } from './lib/echo-bench.mjs'
import { answersWebSocket, scratch, textFrame, webSocketHandshake } from './lib/probes.mjs'
import { bunServer, packageServer } from './lib/servers.mjs'

const text = 'abcdefghijklmnopqrstuvwxyz012345'
const frame = textFrame(text, [1, 2, 3, 4])
const reply = textFrame(text)
const switching = [
  'HTTP/1.1 101 Switching Protocols',
  'Upgrade: websocket',
  'Connection: Upgrade',
  'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=',
  '',
  '',
].join('\r\n')

const keep = scratch('websocket')
const replyFile = keep('reply', reply)
const floorFlags = ['-a', replyFile, '-r', String(frame.length), '-k', keep('switching', switching)]
const told = ['-q', keep('frame', frame), '-k', keep('handshake', webSocketHandshake), '-z', replyFile]

await runEchoBench('websocket', {
  module: 'ws-echo.mjs',
  load: 'load',
  floor: ['floor', ...floorFlags],
  peers: { ws: packageServer('ws', 'ws-peer.mjs'), bun: bunServer('bun-ws.mjs') },
  cases: '64x16,64x1,1x1,512x1,5000x1',
  allCases: '1x1,1x16,8x1,8x16,64x1,64x16,512x1,512x16,5000x1,5000x16',
  compared: 'floor,millrace,millrace-node,ws,bun',
  answers: answersWebSocket,
  loadFlags: () => [...told, '-r', String(reply.length)],
})
