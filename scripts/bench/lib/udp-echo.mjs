// The udp bench's millrace server: an echo as a user writes it. Its port is in `status --json`.
import { Worker } from 'millrace'

const worker = new Worker('udp://127.0.0.1:0', { name: 'udp-echo', count: 1 })
worker.onMessage = (connection, datagram) => connection.send(datagram)
Worker.runAll()
