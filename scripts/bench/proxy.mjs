// The bench `proxy`: CPU of a TCP proxy per echoed line that passes through it, millrace's `pipe` beside node:net's.
// The upstream is the C floor, on the generator's core. Flags and output: lib/echo-bench.mjs. Method: README.md.
import { compile, launch, nextLine, pickCores, stop } from './lib/bench.mjs'
import { runEchoBench } from './lib/echo-bench.mjs'
import { echoesLine } from './lib/probes.mjs'
import { nodeServer } from './lib/servers.mjs'

const upstream = launch([compile('floor')], { core: pickCores()?.load })
process.env.UPSTREAM = `tcp://127.0.0.1:${await nextLine(upstream, 5000)}`

await runEchoBench('proxy', {
  module: 'proxy.mjs',
  load: 'load',
  peers: { net: nodeServer('proxy-peer.mjs') },
  cases: '1x1,64x1,64x16',
  compared: 'millrace,millrace-node,net',
  answers: echoesLine,
})
await stop(upstream)
