// Random traffic on both engines, and everything that a user can see must be the same. Without the addon there is one
// engine, which is compared with itself: that what is seen is not a matter of chance is worth knowing, too.

import { test } from 'uvu'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { compare } from '../support/differential.ts'
import { atLength } from '../support/length.ts'
import { randomOf, seedOf } from '../support/random.ts'

/** For so long, and not less than so many. */
const MOST_MS = atLength(3_000, 15_000)
const LEAST = 25

test('the same traffic is seen alike on both engines', async () => {
  const seed = seedOf('engines')
  const engines = [nodeEngine, nativeEngine() ?? nodeEngine]
  if (process.env.SEED !== undefined) return await compare(engines, seed) // one that was printed by a failure
  const random = randomOf(seed)
  const end = performance.now() + MOST_MS
  let count = 0
  for (; count < LEAST || performance.now() < end; count++) await compare(engines, random(2 ** 31))
  console.log(`${count} scenarios`)
})

test.run()
