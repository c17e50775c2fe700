// The bench `reconnect`: what a reload does to many WebSocket clients. All are open and silent; the server is reloaded
// once; each receives 1012 and reconnects immediately. Reports when they reconnected, how many did so in the busiest
// second, and how long each was away. One JSON line on stdout, a table on stderr, all seconds in results/. Method:
// README.md.
//
// usage: node scripts/bench/reconnect.mjs [--clients 10000] [--workers 2] [--drain 30000]
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildTests } from '../build-tests.mjs'
import { environment, median, root, runBench, table, writeResults } from './lib/bench.mjs'

const batch = 200

function readOptions() {
  const { values } = parseArgs({
    options: {
      clients: { type: 'string', default: '10000' },
      workers: { type: 'string', default: '2' },
      drain: { type: 'string', default: '30000' },
    },
  })
  return { clients: Number(values.clients), workers: Number(values.workers), drainTimeoutMs: Number(values.drain) }
}

async function measure({ clients, workers, drainTimeoutMs }) {
  const support = (path) => import(join(root, 'build/test/support', path))
  const { Load } = await support('load/load.js')
  const { webSocketClient } = await support('load/websocket-client.js')
  const { inSandbox, portOf, succeeded } = await support('server.js')
  const { until } = await support('until.js')
  const goodbyes = []
  const returns = []
  let result
  await inSandbox(async (box) => {
    const program = `
      import { Worker } from 'millrace'
      const settings = { name: 'chat', count: ${workers}, drainTimeoutMs: ${drainTimeoutMs} }
      const worker = new Worker('websocket://127.0.0.1:0', settings)
      worker.onMessage = (connection, id) => connection.send(id + ' ' + process.pid)
      Worker.runAll()`
    const port = portOf(await box.start(box.file('app.js', program)))
    const load = new Load()
    let isReloading = false
    const client = webSocketClient({
      port,
      thinkMs: () => 3_600_000,
      onGoodbye: () => isReloading && goodbyes.push(performance.now()),
      onOpen: () => isReloading && returns.push(performance.now()),
    })
    const open = (count) => until(() => load.sum('answered') >= count, 60_000)
    for (let n = 0; n < clients; n += batch) {
      load.add('websocket', Math.min(batch, clients - n), client)
      await open(Math.min(clients, n + batch))
    }
    isReloading = true
    const { durationMs } = JSON.parse(succeeded(await box.begin('reload', '--json').ended).stdout)
    await open(2 * clients)
    isReloading = false
    await load.end(60_000)
    result = { durationMs, lost: load.lost.length, reasons: load.lost.slice(0, 5) }
    await box.stop()
  })
  return { ...result, goodbyes, returns }
}

function perSecond(times) {
  const first = times[0] ?? 0
  const seconds = []
  for (const time of times) {
    const second = Math.floor((time - first) / 1000)
    seconds[second] = (seconds[second] ?? 0) + 1
  }
  return Array.from(seconds, (count) => count ?? 0)
}

async function main() {
  const plan = readOptions()
  await buildTests()
  const { goodbyes, returns, ...result } = await measure(plan)
  const seconds = perSecond(returns)
  // Both lists are sorted by time, and except for a few the n-th to be notified is the n-th to reconnect.
  const away = goodbyes.map((at, place) => returns[place] - at)
  const row = {
    bench: 'reconnect',
    ...plan,
    ...result,
    spreadMs: Math.round(returns.at(-1) - returns[0]),
    busiestSecond: Math.max(...seconds),
    awayMs: { median: Math.round(median(away)), longest: Math.round(Math.max(...away)) },
    ...environment(),
  }
  console.log(JSON.stringify(row))
  const file = writeResults('reconnect', { command: process.argv.slice(1), plan, rows: [row], raw: { seconds } })
  const cells = [
    ['clients', 'workers', 'reload ms', 'back within ms', 'busiest second', 'away ms, median', 'lost'],
    [plan.clients, plan.workers, row.durationMs, row.spreadMs, row.busiestSecond, row.awayMs.median, row.lost],
  ]
  process.stderr.write(`${table(cells.map((one) => one.map(String)))}\nby second: ${seconds.join(' ')}\n${file}\n`)
}

await runBench('reconnect', main)
