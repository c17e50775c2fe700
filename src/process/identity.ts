// Who a process is: its pid, which the system gives to another one later, and its start time, which it does not.
// proc(5): field 22 of /proc/<pid>/stat, in clock ticks since boot.

import { readFileSync } from 'node:fs'
import { codeOf } from '../errors.ts'

export interface Identity {
  readonly pid: number
  /** Empty where there is no /proc. */
  readonly startTime: string
}

/** Somebody has stopped it: SIGSTOP and its like, or a debugger by ptrace(2). False where there is no /proc. */
export function isStopped(pid: number): boolean {
  const state = statOf(pid)[0]
  return state === 'T' || state === 't'
}

/** It uses a core, or would. */
export function isRunning(pid: number): boolean {
  return statOf(pid)[0] === 'R'
}

export function ownIdentity(): Identity {
  return { pid: process.pid, startTime: startTimeOf(process.pid) }
}

/** Empty when there is no such process, or no /proc. */
export function startTimeOf(pid: number): string {
  const fields = statOf(pid)
  // A zombie whose other threads are still ending has its sockets still: field 20 counts them.
  const isGone = fields[0] === 'Z' && Number(fields[17]) <= 1
  return isGone ? '' : (fields[19] ?? '')
}

/** From field 3 on, the state; none when there is no such process. */
function statOf(pid: number): string[] {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ') // the name may hold anything, spaces too
  } catch {
    return [] // ENOENT or ESRCH: it is gone
  }
}

/**
 * Whether that very process lives. A pid that is not a positive integer never does: -1 would be every process. 1 is a
 * master that is the first process of a container, if it can prove it.
 */
export function isAlive({ pid, startTime }: Identity): boolean {
  if (!Number.isInteger(pid) || pid < 1) return false
  if (startTime !== '') return startTimeOf(pid) === startTime
  if (pid === 1) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return codeOf(error) === 'EPERM'
  }
}
