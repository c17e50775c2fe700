// The server of the bench `bodies` over HTTP on Bun. Runs in Bun, not in Node.
import { bodyOf, receiptOf } from './bodies.mjs'

const headers = { 'Content-Type': 'application/octet-stream' }
const server = Bun.serve({
  hostname: '127.0.0.1',
  port: 0,
  async fetch(request) {
    if (request.method === 'POST')
      return new Response(receiptOf(new Uint8Array(await request.arrayBuffer())), { headers })
    return new Response(bodyOf(Number(new URL(request.url).pathname.slice(1))), { headers })
  },
})
console.log(server.port)
