// A TCP proxy: what comes goes to another server and back, with backpressure both ways. It ends TLS, too, if you give the
// worker a certificate, or begins it with `transport: 'ssl'` on the upstream.
//
//   UPSTREAM=tcp://127.0.0.1:5432 node dist/start.js start dist/examples/tcp-proxy.js

import { AsyncTcpConnection, Worker } from 'millrace'

const { UPSTREAM = 'tcp://127.0.0.1:9999' } = process.env

const worker = new Worker('tcp://0.0.0.0:8888', { name: 'proxy', count: 2 })

worker.onConnect = (connection) => {
  const upstream = new AsyncTcpConnection(UPSTREAM as 'tcp://')
  connection.pipe(upstream)
  upstream.pipe(connection)
  upstream.connect()
}

Worker.runAll()
