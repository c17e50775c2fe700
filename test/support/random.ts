// Reproducible random numbers: a test prints its seed, and `SEED=` in the environment repeats the run.

/** `SEED`, or a new one. */
export function seedOf(title: string): number {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
  console.log(`${title}: SEED=${seed}`)
  return seed
}

/** Returns a generator of integers from 0 to below `limit` (mulberry32). */
export function randomOf(seed: number): (limit: number) => number {
  let state = seed >>> 0
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
  }
}

export type Random = ReturnType<typeof randomOf>

/** Random bytes, half of them from `interesting`: marks and lengths that a parser looks for. */
export function randomBytes(random: Random, length: number, interesting: string | Uint8Array): Buffer {
  const likely = Buffer.from(interesting as Uint8Array)
  return Buffer.from(
    Array.from({ length }, () => (random(2) === 0 ? (likely[random(likely.length)] as number) : random(256))),
  )
}

/** Splits bytes at random places, sometimes into very small pieces. */
export function randomCuts(random: Random, bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = []
  const most = 1 + random(bytes.length + 1)
  for (let at = 0; at < bytes.length; ) {
    const size = 1 + random(most)
    pieces.push(bytes.subarray(at, at + size))
    at += size
  }
  return pieces
}
