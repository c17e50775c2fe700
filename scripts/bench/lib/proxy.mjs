// The millrace server of the bench `proxy`: examples/tcp-proxy.ts, to UPSTREAM.
import { AsyncTcpConnection, Worker } from 'millrace'

const proxy = new Worker('tcp://127.0.0.1:0', { name: 'proxy' })
proxy.onConnect = (connection) => {
  const upstream = new AsyncTcpConnection(process.env.UPSTREAM)
  connection.pipe(upstream)
  upstream.pipe(connection)
  upstream.connect()
}
Worker.runAll()
