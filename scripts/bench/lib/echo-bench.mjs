// An echo bench: server CPU per message of millrace, beside a plain Node server that does the same (the peer) and a bare C
// echo (the floor). One JSON line per case on stdout, a table on stderr, all runs in results/. Method: ../README.md.
//
// flags: [--quick] [--rounds 5] [--seconds 2] [--bytes 32] [--cases 1x1,64x16] [--peers floor,millrace,...]
// A case is connections x messages in flight on each. --quick is one short round: it shows that the bench works.
import { parseArgs } from 'node:util'
import {
  CannotRun,
  compile,
  cpuBetween,
  cpuOf,
  environment,
  launch,
  median,
  nextLine,
  pickCores,
  round,
  runBench,
  spread,
  stop,
  sum,
  table,
  writeResults,
} from './bench.mjs'
import { millraceServer, nodeServer, startPrinting } from './servers.mjs'

/**
 * Which bench this process is.
 *
 * @typedef {object} EchoBench
 * @property {string} name
 * @property {string} module the millrace server, a file beside this one
 * @property {string} load the generator and `floor` the floor: C files beside this one
 * @property {string} floor
 * @property {Record<string, string[]>} peers by name, the Node servers to compare with: file and arguments
 * @property {string} cases the default of --cases
 * @property {string} compared the default of --peers
 * @property {(port: number) => Promise<boolean>} answers whether a port echoes: bound is not yet serving
 * @property {Record<string, string>} [variants] by the letter behind a case, what is different there: `64x16b`
 * @property {(port: number, variant: string) => Promise<string[]>} [loadFlags] more flags for the generator
 */

/** @type {EchoBench} */
let bench
/** By name: what starts a server on a core. */
const starters = {}

/** @param {EchoBench} definition */
export async function runEchoBench(definition) {
  bench = definition
  starters.floor = (core) => startPrinting([compile(bench.floor)], core)
  starters.millrace = millraceServer(bench.name, bench.module, bench.answers)
  for (const [name, [file, ...args]] of Object.entries(bench.peers)) {
    starters[name] = nodeServer(file, ...args)
  }
  await runBench(bench.name, main)
}

const loadGraceMs = 20_000 // the load gives up by itself after 5 s without a reply; this is the second net
const saturatedServer = 0.9 // of the wall time; below it the server had time left
const saturatedLoad = 0.95
const contended = 0.05 // of the wall time waiting for the core: somebody else is at work on this machine

function readOptions() {
  const options = {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    bytes: { type: 'string', default: '32' },
    cases: { type: 'string', default: bench.cases },
    peers: { type: 'string', default: bench.compared },
  }
  try {
    const { values } = parseArgs({ options, allowPositionals: true })
    const rounds = positive('rounds', values.rounds ?? (values.quick ? 1 : 5))
    const seconds = positive('seconds', values.seconds ?? (values.quick ? 0.4 : 2))
    const bytes = positive('bytes', values.bytes)
    const plan = { rounds: Math.ceil(rounds), seconds, warmupSeconds: values.quick ? 0.3 : 0.5 }
    return { ...plan, cases: values.cases.split(',').map((text) => readCase(text, bytes)), peers: readPeers(values) }
  } catch (error) {
    throw error.code?.startsWith('ERR_PARSE_ARGS') ? new CannotRun(error.message) : error
  }
}

function positive(name, text) {
  const value = Number(text)
  if (!(value > 0)) throw new CannotRun(`--${name} must be a number above 0, not '${text}'`)
  return value
}

function readCase(text, bytes) {
  const [, connections, inFlight, variant = ''] = /^(\d+)x(\d+)([a-z]?)$/.exec(text) ?? []
  const isKnown = variant === '' || Object.hasOwn(bench.variants ?? {}, variant)
  if (!(connections > 0 && inFlight > 0) || !isKnown) throw new CannotRun(`--cases: '${text}' is not like 64x16`)
  return { connections: Number(connections), inFlight: Number(inFlight), bytes, ...(variant === '' ? {} : { variant }) }
}

function readPeers(values) {
  const names = values.peers.split(',')
  const unknown = names.find((name) => !Object.hasOwn(starters, name))
  if (unknown !== undefined) throw new CannotRun(`--peers: '${unknown}' is none of ${Object.keys(starters).join(', ')}`)
  return names
}

// One run: the load against one server

async function loadCommand(port, { connections, inFlight, bytes, variant = '' }, plan) {
  const flags = { p: port, c: connections, d: inFlight, s: bytes, t: plan.seconds, w: plan.warmupSeconds }
  const more = (await bench.loadFlags?.(port, variant)) ?? []
  return [
    compile(bench.load),
    '-i',
    ...more,
    ...Object.entries(flags).flatMap(([flag, value]) => [`-${flag}`, String(value)]),
  ]
}

/** The load says "ready" after its warm-up and waits for us: both samples are taken while nothing is in flight. */
async function measure(server, case_, plan, core) {
  const load = launch(await loadCommand(server.port, case_, plan), { core })
  try {
    await nextLine(load, plan.warmupSeconds * 1000 + loadGraceMs)
    const before = cpuOf(server.pid)
    load.stdin.write('go\n')
    const result = JSON.parse(await nextLine(load, plan.seconds * 1000 + loadGraceMs))
    const cpuSeconds = cpuBetween(before, cpuOf(server.pid))
    if (result.errors > 0) throw new Error(`wrong replies: ${result.errors}, first: ${result.firstError}`)
    load.stdin.end()
    await load.ended
    return toRun(result, cpuSeconds)
  } finally {
    await stop(load)
  }
}

function toRun(load, cpuSeconds) {
  const { messages, seconds, rate, latencyUs } = load
  const totalUs = (cpuSeconds.total / messages) * 1e6
  const share = { server: cpuSeconds.total, waited: cpuSeconds.waited, load: load.cpuSeconds.total }
  const utilisation = mapValues(share, (value) => value / seconds)
  return { messages, seconds, rate, latencyUs, cpuSeconds, totalUs, utilisation }
}

// One case: rounds over all servers, then medians

async function measureCase(servers, case_, plan, cores) {
  const runs = Object.fromEntries(Object.keys(servers).map((name) => [name, []]))
  for (let i = 0; i < plan.rounds; i++) {
    for (const [name, server] of Object.entries(servers)) {
      runs[name].push(await measure(server, case_, plan, cores?.load))
    }
  }
  return runs
}

/** The kernel samples user time at its tick, so its share is taken over all rounds and applied to the exact total. */
function perMessage(runs) {
  const user = sum(runs.map((run) => run.cpuSeconds.user))
  const ticked = user + sum(runs.map((run) => run.cpuSeconds.system))
  const total = median(runs.map((run) => run.totalUs))
  return { user: round(ticked > 0 ? (total * user) / ticked : 0), total: round(total) }
}

/** Ratios of the same round, so that what slows the machine for a while slows both sides. */
function ratios(runs, name) {
  return runs[name].map((run, i) => run.totalUs / runs.millrace[i].totalUs)
}

const mapValues = (object, each) =>
  Object.fromEntries(Object.entries(object).map(([key, value]) => [key, each(value, key)]))

const medianOf = (runs, pick) => round(median(runs.map(pick)))

function compare(runs) {
  const { millrace, ...others } = runs
  const lists = millrace ? mapValues(others, (_, name) => ratios(runs, name)) : {}
  return {
    ratio: mapValues(lists, (list) => round(median(list))),
    ratioRange: mapValues(lists, (list) => [round(Math.min(...list)), round(Math.max(...list))]),
  }
}

function toRow(case_, runs, about) {
  const utilisation = mapValues(runs, (list) => ({
    server: medianOf(list, (run) => run.utilisation.server),
    waited: medianOf(list, (run) => run.utilisation.waited),
    load: medianOf(list, (run) => run.utilisation.load),
  }))
  const names = Object.keys(runs)
  const voidPeers = names.filter(
    (name) => utilisation[name].load >= saturatedLoad && utilisation[name].server < saturatedServer,
  )
  return {
    bench: bench.name,
    case: case_,
    perMessageUs: mapValues(runs, perMessage),
    ...compare(runs),
    spread: mapValues(runs, (list) => round(spread(list.map((run) => run.totalUs)), 2)),
    rate: mapValues(runs, (list) => medianOf(list, (run) => run.rate)),
    latencyUs: mapValues(runs, (list) => ({
      p50: medianOf(list, (run) => run.latencyUs.p50),
      p99: medianOf(list, (run) => run.latencyUs.p99),
    })),
    utilisation,
    saturated: names.every((name) => utilisation[name].server >= saturatedServer),
    ...(names.some((name) => utilisation[name].waited >= contended) ? { contended: true } : {}),
    ...(voidPeers.length > 0 ? { void: true, voidPeers } : {}),
    runs: runs[names[0]].length,
    ...about,
  }
}

// The report

const pairOf = ({ user, total }) => `${user.toFixed(2)} ${total.toFixed(2)}`

function toTable(rows, peers) {
  const compared = peers.includes('millrace') ? peers.filter((name) => name !== 'millrace') : []
  const head = ['conns x in flight', ...peers, ...compared.map((name) => `${name}/millrace`), 'server busy %', '']
  const body = rows.map((row) => [
    `${row.case.connections} x ${row.case.inFlight} ${bench.variants?.[row.case.variant] ?? ''}`.trim(),
    ...peers.map((name) => pairOf(row.perMessageUs[name])),
    ...compared.map((name) => row.ratio[name].toFixed(2)),
    peers.map((name) => (row.utilisation[name].server * 100).toFixed(0)).join(' '),
    [row.contended ? 'contended' : '', row.void ? `void: ${row.voidPeers.join(' ')}` : ''].join(' ').trim(),
  ])
  const title = 'server CPU per message in us, user and total; ratios of totals, above 1: millrace is cheaper'
  return `${title}\n${table([head, ...body])}\n`
}

async function main() {
  const { cases, peers, ...plan } = readOptions()
  if (peers.includes('floor')) compile(bench.floor)
  compile(bench.load)
  const cores = pickCores()
  if (!cores)
    process.stderr.write(`bench ${bench.name}: not pinned (needs taskset and two cores): figures are not comparable\n`)
  const servers = {}
  try {
    for (const name of peers) servers[name] = await starters[name](cores?.server)
    const about = { cores: cores ?? null, engine: servers.millrace?.about.engine, ...environment() }
    const rows = []
    const raw = []
    for (const case_ of cases) {
      const runs = await measureCase(servers, case_, plan, cores)
      rows.push(toRow(case_, runs, about))
      raw.push({ case: case_, runs })
      console.log(JSON.stringify(rows.at(-1)))
    }
    const file = writeResults(bench.name, { command: process.argv.slice(1), plan, rows, raw })
    process.stderr.write(`${toTable(rows, peers)}all runs: ${file}\n`)
  } finally {
    for (const server of Object.values(servers)) await server.stop()
  }
}
