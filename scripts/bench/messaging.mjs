// The bench `messaging`: messages between two processes, and from one to many. Messages per second, and CPU per message
// at both ends; beside `process.send`, and a Cluster, NATS and Redis if these are on PATH. Both ends are Node and share the
// available cores, so a figure from a busy machine means little: quote the ratio to process.send in the same run.
//
//   npm run bench -- messaging [--quick] [--rounds 3] [--seconds 1] [--sizes 16,64] [--peers millrace,millrace-node,ipc,cluster,nats,redis]
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import {
  CannotRun,
  environment,
  here,
  launch,
  median,
  nextLine,
  round,
  runBench,
  sleep,
  stop,
  table,
  writeResults,
} from './lib/bench.mjs'
import { freePort, millraceServer, NotHere } from './lib/servers.mjs'

/** For a publish: processes x subscribers in each; the aim is that 100 cost no more than 20 sends. */
const AUDIENCES = { '100 in 1': [1, 100], '100 in 4': [4, 25], '100 in 20': [20, 5] }

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    sizes: { type: 'string', default: '16,64,1024,65536,1048576' },
    peers: { type: 'string', default: 'millrace,millrace-node,ipc,cluster,nats,redis' },
  },
})

async function main() {
  const rounds = options.quick ? 1 : Number(options.rounds)
  const seconds = options.quick ? 0.3 : Number(options.seconds)
  if (!(rounds >= 1 && seconds > 0)) throw new CannotRun('--rounds and --seconds take numbers over 0')
  const sizes = options.quick ? [64] : options.sizes.split(',').map(Number)
  const cases = [
    ...sizes.map((bytes) => ({ kind: 'roundtrip', bytes, inFlight: 64 })),
    ...(options.quick ? [] : [{ kind: 'roundtrip', bytes: 64, inFlight: 1 }]),
    ...sizes.map((bytes) => ({ kind: 'send', bytes, inFlight: 0 })),
  ]
  const { peers, skipped } = await startPeers(options.peers.split(','))
  const rows = []
  for (const one of cases) rows.push(await rowOf(one, peers, rounds, seconds))
  for (const peer of Object.values(peers)) await peer.stop()
  rows.push(...(await audienceRows(rounds, seconds)))
  const result = { ...environment(), rounds, seconds, skipped, rows }
  for (const row of rows) console.log(JSON.stringify({ bench: 'messaging', ...row, skipped, ...environment() }))
  for (const [name, why] of Object.entries(skipped)) console.error(`without ${name}: ${why}`)
  console.error(table([['case', ...Object.keys(peers)], ...rows.map((row) => cellsOf(row, Object.keys(peers)))]))
  console.error(`\nmessages per second (us of CPU, both ends), in ${writeResults('messaging', result)}`)
}

/** The peers available here, and the reasons why the others are not. */
async function startPeers(names) {
  const peers = {}
  const skipped = {}
  for (const name of names) {
    const start = starters[name]
    if (start === undefined) throw new CannotRun(`no peer '${name}'; there are ${Object.keys(starters).join(', ')}`)
    const peer = await start()
    if (typeof peer === 'string') skipped[name] = peer
    else peers[name] = peer
  }
  return { peers, skipped }
}

/** One run of each peer per round, every other round in reverse order. Returns the medians. */
async function rowOf(one, peers, rounds, seconds) {
  const runs = Object.fromEntries(Object.keys(peers).map((name) => [name, []]))
  for (let n = 0; n < rounds; n++) {
    const names = n % 2 === 0 ? Object.keys(peers) : Object.keys(peers).reverse()
    for (const name of names) runs[name].push(await peers[name].measure({ ...one, seconds }))
  }
  return { case: one, servers: Object.fromEntries(Object.entries(runs).map(([name, all]) => [name, medians(all)])) }
}

function medians(runs) {
  const of = (key) => round(median(runs.map((run) => run[key])))
  return { perSecond: of('perSecond'), senderUs: of('senderUs'), receiverUs: of('receiverUs') }
}

/** The publisher's CPU per publish, beside that of 20 sends in the same server. */
async function audienceRows(rounds, seconds) {
  const rows = []
  for (const [name, [processes, each]] of Object.entries(options.quick ? { '100 in 4': [4, 25] } : AUDIENCES)) {
    const peer = await millrace('native', { LISTENERS: String(processes), PER_PROCESS: String(each) })
    const [publish, send] = [[], []]
    for (let n = 0; n < rounds; n++) {
      publish.push(await peer.measure({ kind: 'publish', bytes: 64, inFlight: 0, seconds }))
      send.push(await peer.measure({ kind: 'send', bytes: 64, inFlight: 0, seconds }))
    }
    await peer.stop()
    const [one, other] = [medians(publish), medians(send)]
    const sends = round(one.senderUs / other.senderUs, 3)
    rows.push({ case: { kind: 'publish', bytes: 64, audience: name }, servers: { millrace: one }, sends })
  }
  return rows
}

function cellsOf({ case: one, servers, sends }, names) {
  const { kind, bytes, inFlight, audience } = one
  const label = `${kind} ${bytes} B${inFlight ? ` x${inFlight}` : ''}${audience ? `, ${audience}: ${sends} sends` : ''}`
  const figure = ({ perSecond, senderUs, receiverUs }) =>
    `${Math.round(perSecond)} (${round(senderUs + receiverUs, 3)})`
  return [label, ...names.map((name) => (servers[name] === undefined ? '' : figure(servers[name])))]
}

// What carries the messages

const starters = {
  millrace: () => millrace('native'),
  'millrace-node': () => millrace('node'),
  ipc: () => lines(launch([process.execPath, join(here, 'messaging-ipc.mjs')])),
  cluster: () => throughNats(),
  nats: () => broker('nats-server', natsArgs, 'nats'),
  redis: () => broker('redis-server', redisArgs, 'redis'),
}

/** By default it drops a client that has 64 MiB pending, which 64 messages of 1 MiB reach. */
function natsArgs(port, folder) {
  const config = join(folder, 'nats.conf')
  writeFileSync(config, 'max_pending: 536870912\nmax_payload: 8388608\n')
  return ['-c', config, '-a', '127.0.0.1', '-p', String(port)]
}

function redisArgs(port, folder) {
  const limit = ['--client-output-buffer-limit', 'pubsub 0 0 0'] // the default is 32 MiB
  return ['--bind', '127.0.0.1', '--port', String(port), '--save', '', '--dir', folder, ...limit]
}

const isUp = () => true

/** The cases are sent to the sender's address. */
async function millrace(engine, env = {}) {
  try {
    const listen = { LISTEN: 'text://127.0.0.1:0', ...env }
    const server = await millraceServer('messaging', 'messaging.mjs', isUp, engine, listen)()
    return { measure: (one) => ask(server.port, one), stop: () => server.stop() }
  } catch (error) {
    if (error instanceof NotHere) return error.message
    throw error
  }
}

function ask(port, one) {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = net.connect(port, '127.0.0.1').setEncoding('utf8')
    socket.on('error', reject).on('data', (part) => {
      text += part
      if (!text.endsWith('\n')) return
      socket.destroy()
      resolve(JSON.parse(text))
    })
    socket.on('end', () => reject(new Error('the sender closed the connection: see its log')))
    socket.write(`${JSON.stringify(one)}\n`)
  })
}

/** A program that reads cases and writes results, one per line. */
function lines(child, alsoStop = () => undefined) {
  return {
    async measure(one) {
      const answer = nextLine(child, 60_000 + one.seconds * 4000)
      child.stdin.write(`${JSON.stringify(one)}\n`)
      return JSON.parse(await answer)
    },
    async stop() {
      await stop(child)
      await alsoStop()
    },
  }
}

async function broker(program, argsFor, kind) {
  const server = await brokerServer(program, argsFor)
  if (typeof server === 'string') return server
  const { port, end } = server
  return lines(launch([process.execPath, join(here, 'messaging-broker.mjs'), kind, String(port)]), end)
}

/** The server of a broker, on a free port; or why there is none. */
async function brokerServer(program, argsFor) {
  if (spawnSync(program, ['--version'], { stdio: 'ignore' }).error) return `${program} is not on PATH`
  const port = await freePort()
  const folder = mkdtempSync(join(tmpdir(), 'millrace-bench-broker-'))
  const server = launch([program, ...argsFor(port, folder)])
  await untilListening(port)
  const end = async () => {
    await stop(server)
    rmSync(folder, { recursive: true, force: true })
  }
  return { port, end }
}

/** The same two workers, whose messages take the way between machines. */
async function throughNats() {
  const server = await brokerServer('nats-server', natsArgs)
  if (typeof server === 'string') return server
  const peer = await millrace('native', { NATS: `nats://127.0.0.1:${server.port}` })
  if (typeof peer === 'string') return peer
  const stopBoth = async () => {
    await peer.stop()
    await server.end()
  }
  return { ...peer, stop: stopBoth }
}

async function untilListening(port) {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(20)) {
    const socket = net.connect(port, '127.0.0.1')
    const isThere = await new Promise((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    })
    socket.destroy()
    if (isThere) return
  }
  throw new Error(`nothing listens at ${port}`)
}

await runBench('messaging', main)
