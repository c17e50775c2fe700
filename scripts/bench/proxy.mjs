// The bench `proxy`: CPU of a TCP proxy per echoed line that goes through it, millrace's `pipe` beside node:net's. The
// upstream is the C floor, on the generator's core. Flags and output: lib/echo-bench.mjs. Method: README.md.
import { connect } from 'node:net'
import { compile, launch, nextLine, pickCores, stop } from './lib/bench.mjs'
import { runEchoBench } from './lib/echo-bench.mjs'

const upstream = launch([compile('floor')], { core: pickCores()?.load })
process.env.UPSTREAM = `tcp://127.0.0.1:${await nextLine(upstream, 5000)}`

function answers(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('ping\n'))
    const settle = (value) => {
      socket.destroy()
      resolve(value)
    }
    socket.setTimeout(1000, () => settle(false))
    socket.on('error', () => settle(false))
    socket.on('data', (chunk) => settle(chunk.toString() === 'ping\n'))
  })
}

await runEchoBench({
  name: 'proxy',
  module: 'proxy.mjs',
  load: 'load',
  floor: 'floor',
  peers: { net: ['proxy-peer.mjs'] },
  cases: '1x1,64x1,64x16',
  compared: 'millrace,net',
  answers,
})
await stop(upstream)
