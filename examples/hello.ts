// The program that this package was first made for: four processes on one port.
// Try it with: printf world | nc -q 1 127.0.0.1 8888

import { Worker } from 'millrace'

const worker = new Worker('tcp://0.0.0.0:8888')
worker.count = 4
worker.onWorkerStart = (worker) => console.log(`Worker ${worker.id} started`)
worker.onConnect = (connection) =>
  console.log(`New connection from ${connection.getRemoteIp()}:${connection.getRemotePort()}`)
worker.onMessage = (connection, data) => {
  console.log(`Received message: ${data}`)
  connection.send(`Hello, ${data}!`)
}
Worker.runAll()
