// The bench `reload`: what a reload costs the clients. A closed loop of text lines runs against a server that is
// reloaded repeatedly; beside it, as the alternative without reload, the same with `stop` and `start -d`; then the same
// with HTTP, beside pm2 if it is installed. One JSON line per way on stdout, a table on stderr, all windows in
// results/. Method: README.md.
//
// usage: node scripts/bench/reload.mjs [--quick] [--reloads 10] [--connections 64] [--workers 2]
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import {
  environment,
  here,
  launch,
  median,
  round,
  runBench,
  sleep,
  stop,
  sum,
  table,
  writeResults,
} from './lib/bench.mjs'
import { drainTimeoutMs, WAYS } from './lib/reload-servers.mjs'

const baselineMs = 3000
const betweenMs = 1000

function readOptions() {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      reloads: { type: 'string' },
      connections: { type: 'string', default: '64' },
      workers: { type: 'string', default: '2' },
    },
    allowPositionals: true,
  })
  const reloads = Number(values.reloads ?? (values.quick ? 1 : 10))
  return { reloads, connections: Number(values.connections), workers: Number(values.workers) }
}

/** Collects the load's windows as they arrive. */
function watch({ port }, scheme, { connections }) {
  const child = launch([process.execPath, join(here, 'reload-load.mjs'), String(port), String(connections), scheme])
  const windows = []
  let rest = ''
  child.stdout.on('data', (text) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop()
    for (const line of lines) windows.push(JSON.parse(line))
  })
  return { child, windows }
}

async function measure(way, plan) {
  const { scheme, start } = WAYS[way]
  const server = await start(scheme, plan)
  if (server.why !== undefined) return { skipped: server.why }
  const { child, windows } = watch(server, scheme, plan)
  const spans = []
  try {
    await sleep(baselineMs)
    for (let turn = 0; turn < plan.reloads; turn++) {
      const from = Date.now()
      const told = await server.step()
      spans.push({ from, to: Date.now(), ...told })
      await sleep(betweenMs)
    }
  } finally {
    child.stdin.end()
    await stop(child)
    await server.end()
  }
  return { windows, spans, version: server.version }
}

function toRow(way, { windows, spans, version }, plan) {
  const isDuring = ({ at }) => spans.some(({ from, to }) => at >= from && at - 100 <= to)
  const warm = windows.slice(5)
  const calm = median(warm.filter((window) => !isDuring(window)).map(({ answered }) => answered))
  const during = warm.filter(isDuring).map(({ answered }) => answered)
  const total = (key) => sum(windows.map((window) => window[key]))
  const ready = spans.flatMap(({ readyMs }) => readyMs)
  return {
    bench: 'reload',
    way,
    version,
    ...plan,
    drainTimeoutMs,
    durationMs: round(median(spans.map(({ from, to }) => to - from))),
    readyMs: ready.length === 0 ? null : round(median(ready)),
    perSecond: round(calm * 10),
    duringPerSecond: round((sum(during) / during.length) * 10),
    worstWindow: round(Math.min(...during) / calm, 2),
    meanDuring: round(sum(during) / during.length / calm, 2),
    emptyWindows: during.filter((answered) => answered === 0).length,
    answered: total('answered'),
    crossed: total('crossed'),
    discarded: sum(spans.map((span) => span.discarded)),
    refused: total('refused'),
    reset: total('reset'),
    ...environment(),
  }
}

function toTable(rows) {
  const head = [
    '',
    'ms each',
    'ready ms',
    'lines/s',
    'mean during',
    'worst 100 ms',
    'answered',
    'crossed',
    'refused',
    'reset',
  ]
  const body = rows.map((row) => [
    ...[row.way, row.durationMs, row.readyMs ?? '-', row.perSecond],
    ...[`${Math.round(row.meanDuring * 100)} %`, `${Math.round(row.worstWindow * 100)} %`],
    ...[row.answered, row.crossed, row.refused, row.reset],
  ])
  return `${table([head, ...body].map((cells) => cells.map(String)))}\n`
}

async function main() {
  const plan = readOptions()
  const rows = []
  const raw = []
  for (const way of Object.keys(WAYS)) {
    const measured = await measure(way, plan)
    if (measured.skipped !== undefined) {
      console.log(JSON.stringify({ bench: 'reload', way, void: true, skipped: measured.skipped }))
      process.stderr.write(`${way}: void, ${measured.skipped}\n`)
      continue
    }
    rows.push(toRow(way, measured, plan))
    raw.push({ way, ...measured })
    console.log(JSON.stringify(rows.at(-1)))
  }
  const file = writeResults('reload', { command: process.argv.slice(1), plan, rows, raw })
  process.stderr.write(`${toTable(rows)}all windows: ${file}\n`)
}

await runBench('reload', main)
