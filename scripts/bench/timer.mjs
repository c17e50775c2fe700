// Timer beside setTimeout and clearTimeout, with a million pending: ns to add one, ns to delete one, bytes each. Pairs
// of runs, interleaved, each run in a process of its own, so that no heap is inherited. A run adds and deletes a
// million four times: `first` and `bytes` are from the first time, which pays for fresh memory; `add` and `delete` are
// medians of the others. One JSON object per line; ratios are of medians, node / millrace. Needs a quiet machine.
//
//   npm run bench -- timer [--runs 7] [--module dist/index.js]

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { CannotRun, environment, median, root, round, runBench, spread } from './lib/bench.mjs'

const COUNT = 1_000_000
/** After the first million, how many more there are; their median counts. */
const LATER = 3
const WARM_UP = 20_000

/** Seconds until timer `i` is due. Distinct: each in a millisecond of its own between 20 s and 1020 s, in no order. */
const cases = {
  distinct: (i) => 20 + ((i * 7919) % 1_000_003) / 1000,
  equal: () => 30,
}

const units = { add: 'ns', delete: 'ns', first: 'ns', bytes: 'bytes' }

const { values: options } = parseArgs({
  options: {
    runs: { type: 'string', default: '7' },
    module: { type: 'string', default: join(root, 'dist', 'index.js') },
    child: { type: 'string' },
    case: { type: 'string' },
  },
})

if (options.child === undefined) await runBench('timer', compare)
else process.stdout.write(JSON.stringify(await measure(options.child, cases[options.case])))

// The parent

function compare() {
  const runs = Number(options.runs)
  if (!(runs >= 5)) throw new CannotRun('--runs takes a number of pairs, 5 or more')
  if (!existsSync(options.module)) throw new CannotRun(`${options.module} is missing: npm run build`)
  const where = environment()
  for (const name of Object.keys(cases)) {
    const pairs = Array.from({ length: runs }, (_, i) => pair(name, i % 2 === 0))
    for (const metric of Object.keys(units)) report(name, metric, pairs, where)
  }
}

/** One run of each, in alternating order. */
function pair(name, isNodeFirst) {
  const order = isNodeFirst ? ['node', 'millrace'] : ['millrace', 'node']
  return Object.fromEntries(order.map((who) => [who, run(who, name)]))
}

function run(who, name) {
  const self = import.meta.filename
  const args = ['--expose-gc', self, '--child', who, '--case', name, '--module', options.module]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${who}, ${name}: exit ${status}\n${stderr}`)
  return JSON.parse(stdout)
}

function report(name, metric, pairs, { machine, node: nodeVersion, commit }) {
  const of = (who) => pairs.map((one) => one[who][metric])
  const [millrace, node] = [of('millrace'), of('node')]
  const line = {
    bench: 'timer',
    case: name,
    metric,
    unit: units[metric],
    pending: COUNT,
    millrace: round(median(millrace)),
    node: round(median(node)),
    ratio: round(median(node) / median(millrace), 3),
    runs: pairs.length,
    spread: { millrace: round(spread(millrace), 2), node: round(spread(node), 2) },
    machine,
    nodeVersion,
    commit,
  }
  console.log(JSON.stringify(line))
}

// The child

async function measure(who, secondsOf) {
  const { add, remove } = await subject(who)
  const seconds = Float64Array.from({ length: COUNT }, (_, i) => secondsOf(i))
  for (let i = 0; i < 5; i++) addAndDelete(add, remove, seconds.subarray(0, WARM_UP))
  const first = addAndDelete(add, remove, seconds)
  const later = Array.from({ length: LATER }, () => addAndDelete(add, remove, seconds))
  return {
    first: first.add,
    bytes: first.bytes,
    add: median(later.map((one) => one.add)),
    delete: median(later.map((one) => one.delete)),
  }
}

async function subject(who) {
  const nothing = () => undefined
  if (who === 'node') return { add: (s) => setTimeout(nothing, s * 1000), remove: (id) => clearTimeout(id) }
  const { Timer } = await import(pathToFileURL(resolve(options.module)).href)
  return { add: (s) => Timer.delay(s, nothing), remove: (id) => Timer.del(id) }
}

/** Adds and deletes all timers. Returns ns per call of each kind, and bytes per timer while all are pending. */
function addAndDelete(add, remove, seconds) {
  const count = seconds.length
  const ids = new Array(count).fill(0)
  const before = memory()
  let start = process.hrtime.bigint()
  for (let i = 0; i < count; i++) ids[i] = add(seconds[i])
  const added = Number(process.hrtime.bigint() - start)
  const bytes = memory() - before
  start = process.hrtime.bigint()
  for (let i = 0; i < count; i++) remove(ids[i])
  const removed = Number(process.hrtime.bigint() - start)
  return { add: added / count, delete: removed / count, bytes: bytes / count }
}

/** Bytes in use after a collection: objects, and what typed arrays hold outside the heap. */
function memory() {
  globalThis.gc()
  globalThis.gc()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}
