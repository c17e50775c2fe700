// The `backlog` of the settings as listen(2) takes it. Every call of that in this package gets its number here: Node
// cuts a larger one to its lower 32 bits, which may be 0, and the addon refuses it.

/** An int. The kernel caps it anyway, at net.core.somaxconn. */
const MAX_BACKLOG = 2 ** 31 - 1

/** @param backlog any number from 1 on, as the rule for the setting has it */
export function kernelBacklog(backlog: number): number {
  return Math.min(Math.trunc(backlog), MAX_BACKLOG)
}
