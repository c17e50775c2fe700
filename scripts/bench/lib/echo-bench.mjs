// An echo bench: server CPU per message of millrace on both engines, beside servers that do the same (the peers) and a bare
// C one (the floor). One JSON line per case on stdout, a table on stderr, all runs in results/. Method: ../README.md.
//
// flags: [--quick] [--all] [--rounds 5] [--seconds 1] [--bytes 32] [--cases 1x1,64x16] [--peers floor,millrace,...]
//        [--works text,...]
// A case is connections x messages in flight on each. --all adds the cases and peers that the default run leaves out to
// save time. --quick is one short round of one case: it shows that the bench works.
import { parseArgs } from 'node:util'
import {
  CannotRun,
  compile,
  cpuBetween,
  cpuOf,
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
} from './bench.mjs'
import { caseOf, mapValues, perMiB, rowOf } from './rows.mjs'
import { cServer, millraceServer, NotHere } from './servers.mjs'

/**
 * What a bench measures. Most benches have one work; `broadcast`, for instance, has two: over text and over WebSocket.
 *
 * @typedef {object} Work
 * @property {string} [name] if the bench has several works
 * @property {string} module the millrace server, a file beside this one
 * @property {Record<string, string>} [env] variables that the module reads
 * @property {string} load the generator, a C file beside this one
 * @property {string[]} [floor] the floor, a C file beside this one, and its arguments
 * @property {Record<string, (core: number) => Promise<object>>} peers by name, the functions that start a server to
 * compare with
 * @property {string} cases the default of --cases
 * @property {string} [allCases] with --all
 * @property {string} [quickCase] the case of --quick; by default the first of `cases`
 * @property {string} compared the default of --peers
 * @property {string} [allCompared] with --all
 * @property {(port: number) => Promise<boolean>} answers whether a port echoes: a bound port may not serve yet
 * @property {Record<string, string>} [variants] by the letters after a case, what differs there: `64x16b`
 * @property {(case_: object) => number | undefined} [bodyBytes] bytes of the body, if the row should show CPU per MiB
 * @property {(port: number, case_: object) => string[] | Promise<string[]>} [loadFlags] more flags for the generator
 */

const loadGraceMs = 30_000 // the load gives up by itself after 5 s without a reply; this is the second safety net
const spareFiles = 200 // files a process has open besides its connections

/**
 * @param {string} name of the bench
 * @param {...Work} works
 */
export function runEchoBench(name, ...works) {
  return runBench(name, () => main(name, works))
}

function startersOf(name, work) {
  return {
    ...(work.floor ? { floor: cServer(...work.floor) } : {}),
    millrace: millraceServer(name, work.module, work.answers, 'native', work.env),
    'millrace-node': millraceServer(name, work.module, work.answers, 'node', work.env),
    ...work.peers,
  }
}

// What is asked for

function readOptions(works) {
  const options = {
    quick: { type: 'boolean', default: false },
    all: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    bytes: { type: 'string', default: '32' },
    cases: { type: 'string' },
    peers: { type: 'string' },
    works: { type: 'string' },
  }
  try {
    const { values } = parseArgs({ options, allowPositionals: true })
    const rounds = positive('rounds', values.rounds ?? (values.quick ? 1 : 5))
    const seconds = positive('seconds', values.seconds ?? (values.quick ? 0.3 : 1))
    const plan = { quick: values.quick, rounds: Math.ceil(rounds), seconds, warmupSeconds: values.quick ? 0.2 : 0.4 }
    return { values, bytes: positive('bytes', values.bytes), plan, works: chosenWorks(works, values) }
  } catch (error) {
    throw error.code?.startsWith('ERR_PARSE_ARGS') ? new CannotRun(error.message) : error
  }
}

function positive(name, text) {
  const value = Number(text)
  if (!(value > 0)) throw new CannotRun(`--${name} must be a number above 0, not '${text}'`)
  return value
}

/** Those of `names`, in that order; `flag` is named in the error. */
function chosen(flag, names, known) {
  const unknown = names.find((name) => !known.includes(name))
  if (unknown !== undefined) throw new CannotRun(`--${flag}: '${unknown}' is none of ${known.join(', ')}`)
  return names
}

function chosenWorks(works, values) {
  const known = works.map((work) => work.name)
  const names = values.works === undefined ? known : chosen('works', values.works.split(','), known)
  return works.filter((work) => names.includes(work.name))
}

function casesOf(work, { values, bytes }) {
  const quick = values.quick ? (work.quickCase ?? work.cases.split(',')[0]) : undefined
  const text = values.cases ?? quick ?? (values.all ? work.allCases : undefined) ?? work.cases
  return text.split(',').map((one) => {
    const found = caseOf(one, bytes, work.variants)
    if (found === undefined) throw new CannotRun(`--cases: '${one}' is not like 64x16`)
    checkLimit(found)
    return found
  })
}

function checkLimit({ connections }) {
  const limit = openFilesLimit()
  if (connections + spareFiles > limit)
    throw new CannotRun(`${connections} connections need more open files than ${limit}: ulimit -n`)
}

function peersOf(work, starters, { values }) {
  const text = values.peers ?? (values.all ? work.allCompared : undefined) ?? work.compared
  return chosen('peers', text.split(','), Object.keys(starters))
}

// One run: the load against one server

async function loadCommand(work, port, case_, plan) {
  const { connections, inFlight, bytes } = case_
  const flags = { p: port, c: connections, d: inFlight, s: bytes, t: plan.seconds, w: plan.warmupSeconds }
  const more = (await work.loadFlags?.(port, case_)) ?? []
  return [
    compile(work.load),
    '-i',
    ...more,
    ...Object.entries(flags).flatMap(([flag, value]) => [`-${flag}`, String(value)]),
  ]
}

/**
 * The load prints "open", and we let the server accept all connections; after its warm-up it prints "ready" and waits
 * for us again: both samples are taken while nothing is in flight.
 */
async function measure(work, server, case_, plan, core) {
  const load = launch(await loadCommand(work, server.port, case_, plan), { core })
  try {
    await nextLine(load, loadGraceMs)
    await untilIdle(server.pid)
    load.stdin.write('warm up\n')
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
    await untilIdle(server.pid)
  }
}

function toRun(load, cpuSeconds) {
  const { messages, seconds, rate, latencyUs } = load
  const totalUs = (cpuSeconds.total / messages) * 1e6
  const share = { server: cpuSeconds.total, waited: cpuSeconds.waited, load: load.cpuSeconds.total }
  const utilisation = mapValues(share, (value) => value / seconds)
  return { messages, seconds, rate, latencyUs, cpuSeconds, totalUs, utilisation }
}

/**
 * One case: rounds over all servers. Every other round runs in reverse order, so that no server always follows the same
 * one.
 */
async function measureCase(work, servers, case_, plan, cores) {
  const runs = mapValues(servers, () => [])
  for (let i = 0; i < plan.rounds; i++) {
    const order = i % 2 === 0 ? Object.entries(servers) : Object.entries(servers).reverse()
    for (const [name, server] of order) {
      try {
        runs[name].push(await measure(work, server, case_, plan, cores?.load))
      } catch (error) {
        throw new Error(`${name}, ${labelOf(work, case_)}: ${error.message}`, { cause: error })
      }
    }
  }
  return runs
}

// The report

const labelOf = (work, { connections, inFlight, variant }) =>
  [work.name, `${connections} x ${inFlight}`, work.variants?.[variant]].filter(Boolean).join(' ')

const pairOf = ({ user, total }) => `${user.toFixed(2)} ${total.toFixed(2)}`

function toTable(work, rows, peers) {
  const compared = peers.includes('millrace') ? peers.filter((name) => name !== 'millrace') : []
  const head = ['conns x in flight', ...peers, ...compared.map((name) => `${name}/millrace`), 'server busy %', '']
  const body = rows.map((row) => [
    labelOf(work, row.case),
    ...peers.map((name) => pairOf(row.perMessageUs[name])),
    ...compared.map((name) => row.ratio[name].toFixed(2)),
    peers.map((name) => (row.utilisation[name].server * 100).toFixed(0)).join(' '),
    [row.contended ? 'contended' : '', row.void ? `void: ${row.voidPeers.join(' ')}` : ''].join(' ').trim(),
  ])
  return `${table([head, ...body])}\n`
}

/** Starts the servers available here; one that is not is left out, with a message. */
async function startAll(name, starters, peers, core) {
  const servers = {}
  const skipped = {}
  try {
    for (const peer of peers) {
      try {
        servers[peer] = await starters[peer](core)
      } catch (error) {
        if (!(error instanceof NotHere)) throw error
        skipped[peer] = error.message
        process.stderr.write(`bench ${name}: WITHOUT ${peer}: ${error.message}\n`)
      }
    }
  } catch (error) {
    await stopServers(servers)
    throw error
  }
  if (Object.keys(servers).length === 0) throw new CannotRun('none of the servers can be had here')
  return { servers, skipped }
}

async function stopServers(servers) {
  for (const server of Object.values(servers)) await server.stop()
}

async function main(name, allWorks) {
  const asked = readOptions(allWorks)
  const plans = asked.works.map((work) => {
    const starters = startersOf(name, work)
    return { work, starters, cases: casesOf(work, asked), peers: peersOf(work, starters, asked) }
  })
  for (const { work } of plans) compile(work.load)
  const cores = pickCores()
  if (!cores)
    process.stderr.write(`bench ${name}: not pinned (needs taskset and two cores): figures are not comparable\n`)
  const rows = []
  const raw = []
  let report = 'server CPU per message in us, user and total; ratios of totals, above 1: millrace is cheaper\n'
  for (const { work, starters, cases, peers } of plans) {
    const { servers, skipped } = await startAll(name, starters, peers, cores?.server)
    const more = mapValues(servers, (server) => server.about ?? {})
    const about = { cores: cores ?? null, servers: more, skipped, ...environment() }
    const own = []
    try {
      if (!asked.plan.quick) await measureCase(work, servers, cases[0], { ...asked.plan, rounds: 1 }, cores) // V8 is cold
      for (const case_ of cases) {
        const runs = await measureCase(work, servers, case_, asked.plan, cores)
        const head = { bench: name, ...(work.name ? { work: work.name } : {}), case: case_ }
        const row = rowOf(runs)
        own.push({ ...head, ...row, ...perMiB(row, work.bodyBytes?.(case_)), ...about })
        raw.push({ ...head, runs })
        console.log(JSON.stringify(own.at(-1)))
      }
    } finally {
      await stopServers(servers)
    }
    rows.push(...own)
    report += toTable(work, own, Object.keys(servers))
  }
  const file = writeResults(name, { command: process.argv.slice(1), plan: asked.plan, rows, raw })
  process.stderr.write(`${report}all runs: ${file}\n`)
}
