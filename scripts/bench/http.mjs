// The bench `http`: server CPU per answered GET of millrace, beside node:http and Fastify. Flags and output:
// lib/echo-bench.mjs; `64x16b` is a case with the head of a browser (600 bytes). Method: README.md.
import { mkdtempSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runEchoBench } from './lib/echo-bench.mjs'

const folder = mkdtempSync(join(tmpdir(), 'millrace-bench-http-'))
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
const requests = { '': small, b: browser }
for (const [variant, text] of Object.entries(requests)) writeFileSync(join(folder, `request${variant}`), text)

/** The whole answer to one request, or an empty one. */
function answerOf(port, text) {
  return new Promise((resolve) => {
    let answer = Buffer.alloc(0)
    const settle = () => {
      socket.destroy()
      resolve(answer)
    }
    const socket = connect(port, '127.0.0.1', () => socket.write(text))
    socket.setTimeout(1000, settle)
    socket.on('error', settle)
    socket.on('data', (chunk) => {
      answer = Buffer.concat([answer, chunk])
      if (answer.includes('hello world!')) settle()
    })
  })
}

await runEchoBench({
  name: 'http',
  module: 'http-hello.mjs',
  load: 'load',
  floor: 'floor',
  peers: { node: ['http-peers.mjs', 'node'], fastify: ['http-peers.mjs', 'fastify'] },
  cases: '1x1,64x1,64x1b,64x16,64x16b',
  compared: 'millrace,node,fastify',
  variants: { b: 'browser' },
  answers: async (port) => (await answerOf(port, small)).includes('200 OK'),
  async loadFlags(port, variant) {
    const { length } = await answerOf(port, requests[variant])
    return [
      '-q',
      join(folder, `request${variant}`),
      '-r',
      String(length),
      '-x',
      Buffer.from('HTTP/1.1 200 OK').toString('hex'),
    ]
  },
})
