// The bench `connections`: server CPU per connection that is made, sends one message, receives its answer and is closed
// by the client; and connections per second. Over text and HTTP. A case says how many at a time: `64x1`. Flags:
// lib/echo-bench.mjs.
import { runEchoBench } from './lib/echo-bench.mjs'
import { answerOf, answersHttp, echoesLine, okFlags, scratch } from './lib/probes.mjs'
import { bunServer, nodeServer } from './lib/servers.mjs'

const request = 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'
const floorAnswer =
  'HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 12\r\n\r\nhello world!'
const keep = scratch('connections')
const files = { request: keep('request', request), tail: keep('tail', 'hello world!') }

const text = {
  name: 'text',
  module: 'text-echo.mjs',
  load: 'load',
  floor: ['floor'],
  peers: { net: nodeServer('net-echo.mjs') },
  cases: '64x1',
  allCases: '1x1,8x1,64x1,256x1',
  compared: 'floor,millrace,millrace-node,net',
  answers: echoesLine,
  loadFlags: () => ['-o'],
}

const http = {
  ...text,
  name: 'http',
  module: 'http-hello.mjs',
  floor: ['floor', '-a', keep('answer', floorAnswer)],
  peers: { node: nodeServer('http-peers.mjs', ['node']), bun: bunServer('bun-http.mjs') },
  compared: 'floor,millrace,millrace-node,node,bun',
  answers: answersHttp,
  async loadFlags(port) {
    const { length } = await answerOf(port, request, 'hello world!')
    return ['-o', '-q', files.request, '-r', String(length), ...okFlags, '-z', files.tail]
  },
}

await runEchoBench('connections', text, http)
