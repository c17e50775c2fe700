// Opens and drops a hundred thousand connections on the native engine, some with a reset, some with a half-close, some
// in the middle of a line, and checks that neither descriptors nor memory have grown. It takes longer than a test may.
//
//   node --expose-gc scripts/churn-engine.mjs [count]     after scripts/build-tests.mjs

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { buildTests } from './build-tests.mjs'
import { root } from './files.mjs'

const count = Number(process.argv[2] ?? 100_000)
/** Connections opened before the first measurement, until tables and pools have reached their size. */
const WARM_UP = Math.ceil(count / 5)
/** A leak of even a hundred bytes for each of 80,000 connections would exceed this. */
const MOST_BYTES = 4_000_000
/** Ten times what it takes, since a machine may be slow. */
const LIMIT_MS = 600_000

/** Drops connections one at a time, from many addresses: a single address would run out of ports. */
const DROPPER = `
use Socket;
my ($port, $count) = @ARGV;
for my $n (1 .. $count) {
  socket(my $s, PF_INET, SOCK_STREAM, 0) or die $!;
  setsockopt($s, SOL_SOCKET, SO_LINGER, pack('II', 1, 0)) if $n % 2;
  bind($s, sockaddr_in(0, pack('C4', 127, 1, $n % 16, 1 + $n % 200))) or die $!;
  connect($s, sockaddr_in($port, INADDR_LOOPBACK)) or die $!;
  if ($n % 3 == 0) { send($s, "hello\\n", 0); }
  elsif ($n % 3 == 1) { send($s, "half a line", 0); shutdown($s, 1); }
  close($s);
}
`

await buildTests()
const load = (path) => import(join(root, 'build', path))
const { nativeEngine } = await load('src/net/native-engine.js')
const { withServer } = await load('test/support/tcp.js')
const { until } = await load('test/support/until.js')
const { text } = await load('protocols/text.js')

const engine = nativeEngine()
if (engine === null) console.log('churn: there is no native engine here')
else await withServer(engine, text, settings(), churn, undefined, LIMIT_MS)

function settings() {
  return { onMessage: (connection, line) => connection.send(line), onError: () => undefined }
}

async function churn({ endpoint, worker, connections }) {
  const port = endpoint.split(':').at(-1)
  const drop = async (some) => {
    const before = worker.counters.accepted
    const child = spawn('perl', ['-e', DROPPER, port, `${some}`], { stdio: ['ignore', 'ignore', 'inherit'] })
    const [code] = await once(child, 'close')
    if (code !== 0) throw new Error(`the client has ended with ${code}`)
    await until(() => worker.counters.accepted === before + some && worker.connections.size === 0, 10_000)
    connections.length = 0
  }
  const began = performance.now()
  await drop(WARM_UP)
  const before = now()
  await drop(count - WARM_UP)
  const after = now()
  const bytes = after.memory - before.memory
  const fds = after.descriptors - before.descriptors
  console.log(
    `churn: ${count} connections in ${Math.round(performance.now() - began)} ms, ${bytes} bytes, ${fds} descriptors more`,
  )
  if (bytes > MOST_BYTES || fds > 0 || worker.counters.closed !== count) process.exitCode = 1
}

function now() {
  for (let n = 0; n < 3; n++) globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  return { memory: heapUsed + external, descriptors: readdirSync('/proc/self/fd').length }
}
