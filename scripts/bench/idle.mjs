// The bench `idle`: memory per idle connection, TCP (text) and WebSocket, millrace beside node:net, ws and Bun. Each
// run has a server of its own, which reports its memory before 10,000 connections, when they are open, and after one
// message on each. One JSON line per work on stdout, a table on stderr, all samples in results/. Method: README.md.
//
// usage: node scripts/bench/idle.mjs [--quick] [--connections 10000] [--rounds 3] [--works tcp,websocket]
import { connect } from 'node:net'
import { parseArgs } from 'node:util'
import WebSocket from 'ws'
import {
  CannotRun,
  compile,
  environment,
  launch,
  nextLine,
  openFilesLimit,
  pickCores,
  runBench,
  stop,
  table,
  untilIdle,
  writeResults,
} from './lib/bench.mjs'
import { answersWebSocket, echoesLine, scratch, textFrame, webSocketHandshake } from './lib/probes.mjs'
import { idleRow } from './lib/rows.mjs'
import { bunServer, millraceServer, NotHere, nodeServer, packageServer } from './lib/servers.mjs'

const connectMs = 60_000
const warmUpConnections = 200 // before the first sample: code is compiled and tables have grown once

const text = 'abcdefghijklmnopqrstuvwxyz012345'
const keep = scratch('idle')
const reply = keep('reply', textFrame(text))
const frameFlags = [
  ...['-q', keep('frame', textFrame(text, [1, 2, 3, 4])), '-z', reply, '-r', String(textFrame(text).length)],
  ...['-k', keep('handshake', webSocketHandshake)],
]

function millrace(scheme, answers, engine) {
  return millraceServer('idle', 'idle.mjs', answers, engine, { LISTEN: `${scheme}://127.0.0.1:0` })
}

const works = {
  tcp: {
    ask: askLine,
    loadFlags: [],
    starters: {
      millrace: millrace('text', echoesLine, 'native'),
      'millrace-node': millrace('text', echoesLine, 'node'),
      net: nodeServer('idle-peers.mjs', ['net'], ['--expose-gc']),
    },
  },
  websocket: {
    ask: askWebSocket,
    loadFlags: frameFlags,
    starters: {
      millrace: millrace('websocket', answersWebSocket, 'native'),
      'millrace-node': millrace('websocket', answersWebSocket, 'node'),
      ws: packageServer('ws', 'idle-peers.mjs', ['ws'], ['--expose-gc']),
      bun: bunServer('bun-ws.mjs', 'idle'),
    },
  },
}

await runBench('idle', main)

function readOptions() {
  const options = {
    quick: { type: 'boolean', default: false },
    connections: { type: 'string' },
    rounds: { type: 'string' },
    works: { type: 'string', default: Object.keys(works).join() },
  }
  const { values } = parseArgs({ options, allowPositionals: true })
  const plan = {
    quick: values.quick,
    connections: Number(values.connections ?? (values.quick ? 500 : 10_000)),
    rounds: Number(values.rounds ?? (values.quick ? 1 : 3)),
    works: values.works.split(','),
  }
  if (!(plan.connections > 0 && plan.rounds > 0)) throw new CannotRun('--connections and --rounds are numbers above 0')
  if (!plan.works.every((name) => Object.hasOwn(works, name)))
    throw new CannotRun(`--works: ${Object.keys(works).join(', ')}`)
  if (plan.connections + 200 > openFilesLimit())
    throw new CannotRun(`${plan.connections} connections need more open files than ${openFilesLimit()}: ulimit -n`)
  return plan
}

// Memory as the server reports it

function askLine(port) {
  return new Promise((resolve, reject) => {
    let said = ''
    const socket = connect(port, '127.0.0.1', () => socket.write('memory\n'))
    socket.on('error', reject)
    socket.on('data', (chunk) => {
      said += chunk
      if (!said.endsWith('\n')) return
      socket.destroy()
      resolve(JSON.parse(said))
    })
  })
}

function askWebSocket(port) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`)
    socket.on('error', reject)
    socket.on('open', () => socket.send('memory'))
    socket.on('message', (data) => {
      socket.terminate()
      resolve(JSON.parse(String(data)))
    })
  })
}

/** A sample taken when the server has nothing left to do, closing included. */
async function sample({ ask }, { pid, port }) {
  await untilIdle(pid)
  return ask(port)
}

// One run

function openLoad({ loadFlags }, port, connections, core) {
  const flags = ['-i', '-p', port, '-c', connections, '-n', connections, ...loadFlags].map(String)
  return launch([compile('load'), ...flags], { core })
}

/** Opens the connections, calls `whenOpen`, sends a message on each, calls `whenIdle`, and closes them. */
async function withConnections(work, server, connections, core, whenOpen, whenIdle) {
  const load = openLoad(work, server.port, connections, core)
  try {
    await nextLine(load, connectMs)
    await whenOpen?.()
    load.stdin.write('go on\n')
    await nextLine(load, connectMs)
    load.stdin.write('go\n')
    const { errors, firstError, messages } = JSON.parse(await nextLine(load, connectMs))
    if (errors > 0 || messages !== connections) throw new Error(`wrong replies: ${errors}, first: ${firstError}`)
    await whenIdle?.()
    load.stdin.end()
    await load.ended
  } finally {
    await stop(load)
  }
}

async function measure(work, start, { connections }, cores) {
  const server = await start(cores?.server)
  const samples = { about: server.about ?? {} }
  try {
    await withConnections(work, server, Math.min(warmUpConnections, connections), cores?.load)
    await sample(work, server) // compiles the code of the first answer
    samples.empty = await sample(work, server)
    const whenOpen = async () => {
      samples.open = await sample(work, server)
    }
    const whenIdle = async () => {
      samples.idle = await sample(work, server)
    }
    await withConnections(work, server, connections, cores?.load, whenOpen, whenIdle)
    return samples
  } finally {
    await server.stop()
  }
}

async function measureWork(work, plan, cores) {
  const runs = {}
  const skipped = {}
  for (let round = 0; round < plan.rounds; round++) {
    for (const [name, start] of Object.entries(work.starters)) {
      if (Object.hasOwn(skipped, name)) continue
      try {
        const samples = await measure(work, start, plan, cores)
        runs[name] = [...(runs[name] ?? []), samples]
      } catch (error) {
        if (!(error instanceof NotHere)) throw error
        skipped[name] = error.message
        process.stderr.write(`bench idle: WITHOUT ${name}: ${error.message}\n`)
      }
    }
  }
  return { runs, skipped }
}

// The report

function toTable(row) {
  const body = Object.entries(row.perConnectionBytes).map(([name, { heap, external, engine, counted, rss, silent }]) =>
    [`${row.work} ${name}`, heap, external, engine, counted, rss, silent].map(String),
  )
  return table([['', 'heap', 'external', 'engine', 'counted', 'rss', 'counted before a message'], ...body])
}

async function main() {
  const plan = readOptions()
  const cores = pickCores()
  const rows = []
  const raw = []
  for (const name of plan.works) {
    const { runs, skipped } = await measureWork(works[name], plan, cores)
    const servers = Object.fromEntries(Object.entries(runs).map(([peer, [first]]) => [peer, first.about]))
    const row = { bench: 'idle', work: name, case: { connections: plan.connections }, ...idleRow(runs, plan) }
    rows.push({ ...row, cores: cores ?? null, servers, skipped, ...environment() })
    raw.push({ work: name, runs })
    console.log(JSON.stringify(rows.at(-1)))
  }
  const file = writeResults('idle', { command: process.argv.slice(1), plan, rows, raw })
  process.stderr.write(
    `bytes per connection after one message\n${rows.map(toTable).join('\n')}\nall samples: ${file}\n`,
  )
}
