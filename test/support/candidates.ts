// A process that leaves, as its candidates see it: what holds it, and when nothing does any more.

import type { Candidates } from '../../src/process/child/candidates.ts'

export function leaving(candidates: Candidates): { readonly held: readonly string[]; readonly left: Promise<void> } {
  const held: string[] = []
  const ends: Promise<void>[] = []
  candidates.leave((why) => {
    held.push(why)
    let release: () => void = () => undefined
    ends.push(
      new Promise((resolve) => {
        release = resolve
      }),
    )
    return release
  })
  return { held, left: Promise.all(ends).then(() => undefined) }
}
