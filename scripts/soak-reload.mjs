// Repeats the reload case: one reload under load of every kind, alternating between the engines, with one socket for
// all processes and with one for each. Stops at the first run that lost something.
//
//   node scripts/soak-reload.mjs [repetitions]     after scripts/build.mjs

import { join } from 'node:path'
import { buildTests } from './build-tests.mjs'
import { root } from './files.mjs'

const repetitions = Number(process.argv[2] ?? 100)
const DRAIN_MS = 2000

await buildTests()
const load = (path) => import(join(root, 'build/test/support', path))
const { Load } = await load('load/load.js')
const { addCrowd, portsOf, program } = await load('load/program.js')
const { inSandbox, succeeded } = await load('server.js')

const ways = [
  { engine: 'native', reusePort: false },
  { engine: 'native', reusePort: true },
  { engine: 'node', reusePort: false },
  { engine: 'node', reusePort: true },
]
const total = { reloads: 0, requests: 0, answered: 0, declined: 0, crossed: 0, discarded: 0, lost: 0 }

for (const [place, way] of ways.entries()) {
  const share = Math.floor((repetitions + ways.length - 1 - place) / ways.length)
  if (share > 0 && total.lost === 0) await inSandbox((box) => repeat(box, way, share))
}
const isGood = total.lost === 0 && total.reloads === repetitions
console.log(`soak-reload: ${isGood ? 'good' : 'FAILED'}`, total)
if (!isGood) process.exitCode = 1

async function repeat(box, { engine, reusePort }, share) {
  box.env.MILLRACE_ENGINE = engine
  const shape = { reusePort, drainTimeoutMs: DRAIN_MS }
  const status = await box.start(box.file('app.js', program(shape)))
  const crowd = new Load()
  addCrowd(crowd, portsOf(status))
  const times = []
  for (let version = 2; version < 2 + share && crowd.lost.length === 0; version++) {
    box.file('app.js', program({ ...shape, version }))
    const { durationMs, slots } = JSON.parse(succeeded(await box.begin('reload', '--json').ended).stdout)
    const odd = slots.filter(({ result, note }) => result !== 'replaced' || note !== '')
    if (odd.length > 0) throw new Error(`a reload with ${JSON.stringify(odd)}`)
    for (const { discarded } of slots) total.discarded += discarded
    times.push(durationMs)
    total.reloads++
  }
  await crowd.end(60_000)
  console.table(crowd.table())
  console.log(
    `${engine}, reusePort ${reusePort}: ${times.length} reloads, ${times.sort((a, b) => a - b)[times.length >> 1]} ms each`,
  )
  for (const why of crowd.lost) console.log(`lost: ${why}`)
  total.requests += crowd.sum('sent')
  for (const key of ['answered', 'declined', 'crossed']) total[key] += crowd.sum(key)
  total.lost += crowd.lost.length
  await box.stop()
}
