// Random traffic on both engines for so long: a seed chooses what is said, how it is cut, who pauses, who goes and when, and
// everything that a user can see must be the same (test/support/differential.ts). A difference is named with its seed and must
// be seen again in two more runs of it: one that is not may be the kernel's (a read cut elsewhere), and only so many may be.
//
//   node scripts/fuzz-engine.mjs [seconds] [seed]     with a seed: this one run

import { join } from 'node:path'
import { buildTests } from './build-tests.mjs'
import { root } from './esbuild.mjs'

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

/** @returns Whether the first run was. @throws When one of the two after a difference differs, too. */
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
