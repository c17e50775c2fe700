// A TCP proxy: forwards bytes to another server and back, with backpressure both ways. It also terminates TLS if you
// give the worker a certificate, or uses TLS to the upstream with `transport: 'ssl'`.
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
