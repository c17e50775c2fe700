// The millrace server of the bench `bodies` over frames: a packet of four bytes requests that many bytes; any other
// packet is a received body.
import { Worker } from 'millrace'
import { bodyOf, receiptOf } from './bodies.mjs'

const worker = new Worker('frame://127.0.0.1:0', { name: 'bodies' })
worker.onMessage = (connection, packet) => {
  if (packet.length === 4) connection.send(bodyOf(packet.readUInt32BE()))
  else connection.send(receiptOf(packet))
}
Worker.runAll()
