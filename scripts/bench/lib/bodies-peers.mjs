// The peers of the bench `bodies`: node scripts/bench/lib/bodies-peers.mjs net|node. The same servers written by hand;
// a body that arrives in pieces is joined once, when it is complete.
import { createServer as createHttpServer } from 'node:http'
import { createServer } from 'node:net'
import { bodyOf, receiptOf } from './bodies.mjs'

const HEAD = 4

/** Frames: | total length, 4 bytes, big-endian, head included | payload |. */
function onConnection(socket) {
  let chunks = []
  let have = 0
  let wanted = HEAD
  const answer = (packet) => {
    const reply = packet.length === 4 ? bodyOf(packet.readUInt32BE()) : Buffer.from(receiptOf(packet))
    const head = Buffer.allocUnsafe(HEAD)
    head.writeUInt32BE(HEAD + reply.length)
    socket.cork()
    socket.write(head)
    socket.write(reply)
    socket.uncork()
  }
  socket.on('error', () => socket.destroy())
  socket.on('data', (chunk) => {
    chunks.push(chunk)
    have += chunk.length
    if (have < wanted) return
    let bytes = chunks.length === 1 ? chunk : Buffer.concat(chunks, have)
    for (;;) {
      wanted = bytes.length < HEAD ? HEAD : bytes.readUInt32BE()
      if (bytes.length < wanted || bytes.length < HEAD) break
      answer(bytes.subarray(HEAD, wanted))
      bytes = bytes.subarray(wanted)
    }
    chunks = bytes.length > 0 ? [bytes] : []
    have = bytes.length
  })
}

function onRequest(request, response) {
  const answer = (body) => {
    response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Length': body.length })
    response.end(body)
  }
  if (request.method !== 'POST') return answer(bodyOf(Number(request.url.slice(1))))
  const chunks = []
  request.on('data', (chunk) => chunks.push(chunk))
  request.on('end', () => answer(receiptOf(Buffer.concat(chunks))))
}

const server = process.argv[2] === 'net' ? createServer({ noDelay: true }, onConnection) : createHttpServer(onRequest)
server.listen(0, '127.0.0.1', 511, () => console.log(server.address().port))
