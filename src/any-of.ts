// Choice without a memory. Whoever takes turns instead needs one turn for each set that is chosen from: one that
// several sets share gives each of them always the same ones, if they are asked for in step.

/** @internal One of them at random; undefined if there are none. */
export function anyOf<T>(all: readonly T[]): T | undefined {
  return all[Math.floor(Math.random() * all.length)]
}
