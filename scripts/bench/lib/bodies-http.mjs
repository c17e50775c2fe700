// The millrace server of the bench `bodies` over HTTP: GET /<size> is answered with that many bytes, a POST with a
// receipt.
import { Response, Worker } from 'millrace'
import { bodyOf, receiptOf } from './bodies.mjs'

const type = { 'Content-Type': 'application/octet-stream' }
const worker = new Worker('http://127.0.0.1:0', { name: 'bodies' })
worker.onMessage = (connection, request) => {
  const body = request.method === 'POST' ? receiptOf(request.rawBody()) : bodyOf(Number(request.path.slice(1)))
  connection.send(new Response(200, type, body))
}
Worker.runAll()
