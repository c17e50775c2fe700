// The bench `udp`: server CPU per echoed datagram of millrace, beside plain node:dgram (the peer) and a bare C echo (the
// floor). Flags and output: lib/echo-bench.mjs. Method: README.md. A case is sockets x datagrams in flight on each.
import { createSocket } from 'node:dgram'
import { runEchoBench } from './lib/echo-bench.mjs'
import { nodeServer } from './lib/servers.mjs'

/** True when the port echoes a datagram: a bound port may not serve yet. */
function answers(port) {
  return new Promise((resolve) => {
    const socket = createSocket('udp4')
    const settle = (value) => {
      clearTimeout(late)
      socket.close()
      resolve(value)
    }
    const late = setTimeout(settle, 1000, false)
    socket.once('message', (bytes) => settle(bytes.toString() === 'ping'))
    socket.once('error', () => settle(false))
    socket.send('ping', port, '127.0.0.1')
  })
}

await runEchoBench('udp', {
  module: 'udp-echo.mjs',
  load: 'udp-load',
  floor: ['udp-floor'],
  peers: { dgram: nodeServer('dgram-echo.mjs') },
  cases: '1x1,1x16,8x1,8x16,64x1',
  compared: 'floor,millrace,millrace-node,dgram',
  answers,
})
