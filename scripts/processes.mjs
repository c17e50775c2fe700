// Finds and ends processes by a variable in their environment (proc(5)). A process that daemonized, left its group and
// lost its parent still has it. Without /proc nothing is found.

import { readdirSync, readFileSync } from 'node:fs'

// The process has gone, or is not ours to inspect.
const expected = new Set(['ENOENT', 'ESRCH', 'EACCES', 'EPERM'])

/**
 * The living processes whose environment, as it was at exec, has a variable `name` whose value begins with `prefix`.
 * @param {string} name
 * @param {string} prefix
 * @returns {{ pid: number, command: string }[]}
 */
export function processesWith(name, prefix) {
  return pids()
    .filter((pid) => pid !== process.pid && read(pid, 'environ').includes(`\0${name}=${prefix}`))
    .map((pid) => ({ pid, command: read(pid, 'cmdline').replaceAll('\0', ' ').trim() }))
}

function pids() {
  try {
    return readdirSync('/proc').map(Number).filter(Number.isInteger)
  } catch (error) {
    if (error.code === 'ENOENT') return []
    throw error
  }
}

/** The text, preceded by a zero byte so that the first entry looks like the others; empty for a zombie. */
function read(pid, file) {
  try {
    return `\0${readFileSync(`/proc/${pid}/${file}`, 'utf8')}`
  } catch (error) {
    if (expected.has(error.code)) return ''
    throw error
  }
}

/** @param {number} pid */
export function endProcess(pid) {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if (error.code !== 'ESRCH') throw error
  }
}

/** @param {number} leader */
export function endGroup(leader) {
  endProcess(-leader)
}
