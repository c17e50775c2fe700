// The bench `http`: server CPU per answered GET of millrace, beside a C floor that parses nothing, node:http, Fastify
// and Bun. Flags and output: lib/echo-bench.mjs; `64x16b` is a case with a browser's head (600 bytes). Method:
// README.md.
import { runEchoBench } from './lib/echo-bench.mjs'
import { answerOf, answersHttp, okFlags, scratch } from './lib/probes.mjs'
import { bunServer, nginxServer, nodeServer, packageServer } from './lib/servers.mjs'

const small = 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'
const browser = [
  'GET / HTTP/1.1',
  'Host: localhost:8080',
  'Connection: keep-alive',
  'sec-ch-ua: "Chromium";v="150", "Not_A Brand";v="24"',
  'sec-ch-ua-mobile: ?0',
  'sec-ch-ua-platform: "Linux"',
  'Upgrade-Insecure-Requests: 1',
  'User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36',
  'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8',
  'Sec-Fetch-Site: none',
  'Sec-Fetch-Mode: navigate',
  'Accept-Encoding: gzip, deflate, br, zstd',
  'Accept-Language: en-US,en;q=0.9,de;q=0.8',
  'Cookie: sid=kam4Wk5w7eTO',
  '',
  '',
].join('\r\n')
// As long as ours, with a Date that never changes.
const floorAnswer = [
  'HTTP/1.1 200 OK',
  'Server: millrace',
  'Date: Thu, 01 Jan 2026 00:00:00 GMT',
  'Content-Type: text/html; charset=utf-8',
  'Content-Length: 12',
  '',
  'hello world!',
].join('\r\n')

const keep = scratch('http')
const requests = { '': small, b: browser }
const files = { '': keep('request', small), b: keep('request-b', browser) }
const body = keep('body', 'hello world!')

await runEchoBench('http', {
  module: 'http-hello.mjs',
  load: 'load',
  floor: ['floor', '-a', keep('answer', floorAnswer)],
  peers: {
    node: nodeServer('http-peers.mjs', ['node']),
    fastify: packageServer('fastify', 'http-peers.mjs', ['fastify']),
    bun: bunServer('bun-http.mjs'),
    nginx: nginxServer(),
  },
  cases: '64x16,64x16b,64x1,1x1,512x1',
  allCases: '1x1,1x16,8x1,8x16,64x1,64x1b,64x16,64x16b,512x1,512x1b,512x16,5000x1,5000x16',
  compared: 'floor,millrace,millrace-node,node,fastify,bun',
  allCompared: 'floor,millrace,millrace-node,node,fastify,bun,nginx',
  variants: { b: 'browser' },
  answers: answersHttp,
  async loadFlags(port, { variant = '' }) {
    const { length } = await answerOf(port, requests[variant], 'hello world!')
    return ['-q', files[variant], '-r', String(length), ...okFlags, '-z', body]
  },
})
