// Runs random traffic on both engines for a given time. A seed chooses what is sent, how it is split, which side
// pauses, and which side leaves and when; everything a user can observe must be the same
// (test/support/differential.ts). A difference is reported with its seed and must appear again in two more runs of it.
// One that does not may be due to the kernel (a read split elsewhere), and only a limited number of these is tolerated.
//
//   node scripts/fuzz-engine.mjs [seconds] [seed]     with a seed: this one run

import { join } from 'node:path'
import { buildTests } from './build-tests.mjs'
import { root } from './files.mjs'

const [, , seconds = '60', given] = process.argv

await buildTests()
const load = (path) => import(join(root, 'build', path))
const { nativeEngine } = await load('src/net/native-engine.js')
const { nodeEngine } = await load('src/net/node-engine.js')
const { compare } = await load('test/support/differential.js')
const { randomOf } = await load('test/support/random.js')

const native = nativeEngine()
if (native === null) console.log('fuzz: there is no native engine here')
else if (given !== undefined) await once(Number(given))
else await fuzz(Math.floor(Math.random() * 2 ** 32))

async function once(seed) {
  await compare([nodeEngine, native], seed)
  console.log(`fuzz: SEED=${seed} is the same on both engines`)
}

async function fuzz(seed) {
  console.log(`fuzz: SEED=${seed} for ${seconds} s`)
  const random = randomOf(seed)
  const end = performance.now() + Number(seconds) * 1000
  let count = 0
  let unrepeated = 0
  for (; performance.now() < end; count++) if (!(await isSame(random(2 ** 31)))) unrepeated++
  console.log(`fuzz: ${count} runs, the same on both engines; ${unrepeated} differences not seen again`)
  if (unrepeated > count / 200) throw new Error(`${unrepeated} of ${count} runs differed once: too many for chance`)
}

/** @returns Whether the first run agreed. @throws If one of the two runs after a difference differs, too. */
async function isSame(seed) {
  try {
    await compare([nodeEngine, native], seed)
    return true
  } catch (difference) {
    console.log(`fuzz: ${difference.stack}\n${difference.details ?? ''}`)
  }
  for (let again = 0; again < 2; again++) await compare([nodeEngine, native], seed)
  console.log(`fuzz: SEED=${seed} did not differ again`)
  return false
}
