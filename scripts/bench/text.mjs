// The bench `text`: server CPU per echoed line of millrace, beside a plain node:net line echo (the peer) and a bare C
// epoll echo (the floor). Flags and output: lib/echo-bench.mjs. Method: README.md. Peers also: net-corked.
import { runEchoBench } from './lib/echo-bench.mjs'
import { echoesLine } from './lib/probes.mjs'
import { nodeServer } from './lib/servers.mjs'

await runEchoBench('text', {
  module: 'text-echo.mjs',
  load: 'load',
  floor: ['floor'],
  peers: { net: nodeServer('net-echo.mjs'), 'net-corked': nodeServer('net-echo.mjs', ['corked']) },
  cases: '64x16,64x1,1x1,8x1,512x1,5000x1',
  allCases: '1x1,1x16,8x1,8x16,64x1,64x16,512x1,512x16,5000x1,5000x16',
  compared: 'floor,millrace,millrace-node,net',
  allCompared: 'floor,millrace,millrace-node,net,net-corked',
  answers: echoesLine,
})
