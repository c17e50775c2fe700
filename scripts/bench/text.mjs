// The bench `text`: server CPU per echoed line of millrace, beside a plain node:net line echo (the peer) and a bare C
// epoll echo (the floor). Flags and output: lib/echo-bench.mjs. Method: README.md. Peers also: net-corked.
import { connect } from 'node:net'
import { runEchoBench } from './lib/echo-bench.mjs'

/** True when the port echoes a line: listening is not yet serving. */
function answers(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('ping\n'))
    const settle = (value) => {
      socket.destroy()
      resolve(value)
    }
    socket.setTimeout(1000, () => settle(false))
    socket.on('error', () => settle(false))
    socket.on('close', () => settle(false))
    socket.on('data', (chunk) => settle(chunk.toString() === 'ping\n'))
  })
}

await runEchoBench({
  name: 'text',
  module: 'text-echo.mjs',
  load: 'load',
  floor: 'floor',
  peers: { net: ['net-echo.mjs'], 'net-corked': ['net-echo.mjs', 'corked'] },
  cases: '1x1,1x16,8x1,8x16,64x1,64x16',
  compared: 'floor,millrace,net',
  answers,
})
