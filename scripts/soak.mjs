// A server under load of every kind, while a seeded sequence of steps happens to it: reloads with other code, counts
// and groups, with a canary, with broken code, two at once; processes killed, stopped for a while, scaled. At the end
// it reports the outcome of each request and how much the master has grown. Fails when a request was lost that was not
// in flight on a killed process, when a step did not do what it should, or when descriptors or memory have grown.
//
//   node scripts/soak.mjs [minutes] [seed]     after scripts/build.mjs; the seed repeats the steps

import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { buildTests } from './build-tests.mjs'
import { root } from './files.mjs'
import { growthSince, measure } from './soak/growth.mjs'
import { reload, STEPS } from './soak/steps.mjs'

const [, , minutes = '2', given] = process.argv
const seed = Number(given ?? Math.floor(Math.random() * 2 ** 32))
const DRAIN_MS = 2000
/** Steps until caches have reached their size and code is compiled: growth counts from then on. */
const WARM_UP_STEPS = 5
/** Longest pause between two steps, ms: some begin before the previous one has taken full effect. */
const PAUSE_MS = 400

await buildTests()
const load = (path) => import(join(root, 'build/test/support', path))
const { Load } = await load('load/load.js')
const { addCrowd, portsOf, program } = await load('load/program.js')
const { randomOf } = await load('random.js')
const { inSandbox, workersOf } = await load('server.js')
const { until } = await load('until.js')

const random = randomOf(seed)
const engine = random(2) === 0 ? 'native' : 'node'
const reusePort = random(2) === 0

console.log(`soak: SEED=${seed} for ${minutes} min, engine ${engine}, reusePort ${reusePort}`)
await inSandbox(soak)

async function soak(box) {
  box.env.MILLRACE_ENGINE = engine
  const shape = { reusePort, drainTimeoutMs: DRAIN_MS, count: 2, version: 1 }
  const write = (change = {}) => box.file('app.js', program(Object.assign(shape, { more: '' }, change)))
  const status = await box.start(write())
  const crowd = new Load()
  addCrowd(crowd, portsOf(status))
  const help = (await box.command('help')).stdout
  const server = { box, crowd, random, write, shape, until, workersOf, master: status.pid, commands: help }
  const end = performance.now() + Number(minutes) * 60_000
  const done = new Map()
  let before = null
  for (let step = 1; performance.now() < end; step++) {
    if (step === WARM_UP_STEPS + 1) before = await atRest(server)
    await oneStep(server, done)
    await sleep(random(PAUSE_MS))
  }
  const after = await atRest(server)
  await crowd.end(60_000)
  report(crowd, done, before, after)
  await box.stop()
}

/** What the master holds once the server has its initial shape again. */
async function atRest(server) {
  await reload(server, { count: 2 })
  await server.until(async () => isWhole(server, await server.box.status()), 60_000)
  return measure(server.master)
}

/** Chooses a step, does it, and checks that the server is whole afterwards. */
async function oneStep(server, done) {
  const { random, crowd, box } = server
  const possible = STEPS.filter(({ needs = '' }) => server.commands.includes(needs))
  const { name, act } = possible[random(possible.length)]
  const lost = crowd.lost.length
  const crossed = crowd.sum('crossed')
  const began = performance.now()
  try {
    await act(server)
    await server.until(async () => isWhole(server, await box.status()), 60_000)
  } catch (error) {
    console.log(`soak: SEED=${seed}: '${name}' failed`)
    throw error
  }
  done.set(name, (done.get(name) ?? 0) + 1)
  const ms = Math.round(performance.now() - began)
  console.log(
    `${name}: ${ms} ms, ${crowd.sum('crossed') - crossed} crossed${crowd.lost.length > lost ? `, LOST ${crowd.lost.slice(lost).join('; ')}` : ''}`,
  )
}

/** Every slot has exactly one process, and it serves. */
function isWhole({ shape, workersOf }, status) {
  const [web] = status.groups
  return (
    web.workers.length === shape.count && workersOf(status).every(({ state }) => state === 'ready' || state === 'busy')
  )
}

function report(crowd, done, before, after) {
  console.table(crowd.table())
  console.log('steps:', Object.fromEntries(done))
  const grown = before === null ? [] : growthSince(before, after)
  for (const line of grown) console.log(`soak: ${line}`)
  if (before !== null) console.log('master:', { before, after })
  const uneven = [...crowd.tallies].filter(([, tally]) => !tally.isEven).map(([kind]) => kind)
  const silent = [...crowd.tallies].filter(([, { answered }]) => answered === 0).map(([kind]) => kind)
  if (uneven.length > 0) console.log(`soak: the sums do not add up: ${uneven}`)
  if (silent.length > 0) console.log(`soak: never answered: ${silent}`)
  for (const why of crowd.lost) console.log(`soak: lost: ${why}`)
  const isGood = crowd.lost.length + grown.length + uneven.length + silent.length === 0
  console.log(
    `soak: SEED=${seed}: ${crowd.sum('sent')} requests, ${crowd.lost.length} lost: ${isGood ? 'good' : 'FAILED'}`,
  )
  if (!isGood) process.exitCode = 1
}
