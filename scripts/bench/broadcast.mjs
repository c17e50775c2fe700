// The bench `broadcast`: server CPU per delivery of a message of 32 bytes that one of 10,000 connections sends and all
// receive, over text and WebSocket. The next one is sent when all have received it. Flags and output:
// lib/echo-bench.mjs.
import { runEchoBench } from './lib/echo-bench.mjs'
import { answersWebSocket, echoesLine, scratch, textFrame, webSocketHandshake } from './lib/probes.mjs'
import { bunServer, nodeServer, packageServer } from './lib/servers.mjs'

const message = 'abcdefghijklmnopqrstuvwxyz01234'
const line = `${message}\n`
const frame = textFrame(message)
const keep = scratch('broadcast')
const files = {
  line: keep('line', line),
  frame: keep('frame', textFrame(message, [1, 2, 3, 4])),
  reply: keep('reply', frame),
  handshake: keep('handshake', webSocketHandshake),
}

const text = {
  name: 'text',
  module: 'broadcast.mjs',
  env: { LISTEN: 'text://127.0.0.1:0' },
  load: 'load',
  peers: { net: nodeServer('broadcast-peers.mjs', ['net']) },
  cases: '10000x1',
  quickCase: '500x1',
  allCases: '100x1,1000x1,10000x1',
  compared: 'millrace,millrace-node,net',
  answers: echoesLine,
  loadFlags: () => ['-b', '-q', files.line, '-r', String(line.length), '-z', files.line],
}

const websocket = {
  ...text,
  name: 'websocket',
  env: { LISTEN: 'websocket://127.0.0.1:0' },
  peers: {
    ws: packageServer('ws', 'broadcast-peers.mjs', ['ws']),
    bun: bunServer('bun-ws.mjs', 'broadcast'),
  },
  compared: 'millrace,millrace-node,ws,bun',
  answers: answersWebSocket,
  loadFlags: () => [
    ...['-b', '-q', files.frame, '-r', String(frame.length), '-z', files.reply],
    ...['-k', files.handshake],
  ],
}

await runEchoBench('broadcast', text, websocket)
