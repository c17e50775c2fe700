// Identity of a process: its pid, which the system reuses, and its start time, which is never reused. proc(5): field 22
// of /proc/<pid>/stat, in clock ticks since boot.

import { readFileSync } from 'node:fs'
import { codeOf } from '../errors.ts'

export interface Identity {
  readonly pid: number
  /** Empty where there is no /proc. */
  readonly startTime: string
}

/** Whether the process is stopped by SIGSTOP or similar, or by a debugger using ptrace(2). False without /proc. */
export function isStopped(pid: number): boolean {
  const state = statOf(pid)[0]
  return state === 'T' || state === 't'
}

/** Whether the process is on a core or ready to run. */
export function isRunning(pid: number): boolean {
  return statOf(pid)[0] === 'R'
}

export function ownIdentity(): Identity {
  return { pid: process.pid, startTime: startTimeOf(process.pid) }
}

/** Empty if there is no such process, or no /proc. */
export function startTimeOf(pid: number): string {
  const fields = statOf(pid)
  // A zombie whose other threads are still ending still holds its sockets: field 20 counts the threads.
  const isGone = fields[0] === 'Z' && Number(fields[17]) <= 1
  return isGone ? '' : (fields[19] ?? '')
}

/** The fields from number 3 (the state) on; empty if there is no such process. */
function statOf(pid: number): string[] {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ') // the name may contain anything, spaces too
  } catch {
    return [] // ENOENT or ESRCH: it is gone
  }
}

/**
 * Whether this same process still lives. A pid that is not a positive integer never does: -1 would mean every process.
 * Pid 1 is a master that is the first process of a container; it counts only if its start time matches.
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
