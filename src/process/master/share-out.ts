// Spreads connections over the processes of a port: a process with more than its share rests, so that its siblings
// accept first.

import type { GroupState } from './group-state.ts'

/** A lead over the average above this is not noise; a smaller one is not worth a rest. */
const SHARE_FACTOR = 9 / 8
const SHARE_SLACK = 16
/** A process silent for this long is left out and not counted in the average. */
const SILENT_MS = 1500

/** Tells each worker of a group how many connections it should have at most, so that they do not pile up on one. */
export function shareOut({ slots, blueprint }: GroupState): void {
  if (blueprint.sockets.length > 1) return // the kernel spreads; a resting process would give its queue to siblings
  const serving = slots
    .flatMap(({ processes }) => processes)
    .filter(({ state, silentMs }) => state === 'ready' && silentMs < SILENT_MS)
  const all = serving.reduce((sum, { report }) => sum + report.counters.connections, 0)
  const isAlone = serving.length < 2
  const share = isAlone ? Number.MAX_SAFE_INTEGER : Math.ceil((all / serving.length) * SHARE_FACTOR) + SHARE_SLACK
  for (const handle of serving) handle.useShare(share)
}
