// A thread with its own engine, a listener and a peer: `workerData` is the body of the function that the engine calls.

import net from 'node:net'
import { parentPort, workerData } from 'node:worker_threads'
import { addon } from '../../src/addon.ts'
import { Rings } from '../../src/net/rings.ts'

const { sys, newEngine } = addon()
if (sys !== null && newEngine !== null) {
  const onBatch = new Function('parentPort', workerData) as (port: typeof parentPort) => void
  const native = newEngine(() => onBatch(parentPort), {})
  const rings = new Rings(native)
  const socket = sys.bind({ transport: 'tcp', host: '127.0.0.1', port: 0, path: '' })
  sys.listen(socket.fd, 10)
  const { port } = sys.socketName(socket.fd)
  rings.queued[native.listen(socket.release())] = 16
  const peer = net.connect(port, '127.0.0.1')
  peer.on('error', () => peer.destroy())
}
