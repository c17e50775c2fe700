// Whose a file of an upload is: its name says which process has it, and where that process id means something. For PIDs
// are numbers within a namespace: of another container or another machine that shares the folder they say nothing.

import { readFileSync, readlinkSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { hostname } from 'node:os'
import { basename } from 'node:path'
import { crypto } from '../builtins.ts'
import { codeOf } from '../errors.ts'

/** For files of processes of which nothing can be known: a request that takes longer is not expected. */
const ALIENS_STAY_MS = 86_400_000

const NAME = /^([0-9a-f]{16})-(\d+)-[0-9a-f]{32}$/

let place = ''

/** A new name for a file of this process: `<place>-<pid>-<random>`. */
export function newFileName(): string {
  return `${here()}-${process.pid}-${crypto().randomBytes(16).toString('hex')}`
}

/** Whether a process has left the file behind that is gone. Rejects with ENOENT if the file is gone by now. */
export async function isLeftBehind(path: string): Promise<boolean> {
  const [, where, pid] = NAME.exec(basename(path)) ?? []
  if (where === undefined) return false // not one of ours
  if (where === here()) return !isAlive(Number(pid))
  return (await stat(path)).mtimeMs + ALIENS_STAY_MS <= Date.now()
}

/** Where our process ids are unique: this boot of this machine, and our PID namespace. */
function here(): string {
  if (place === '') place = crypto().createHash('sha256').update(namespace()).digest('hex').slice(0, 16)
  return place
}

function namespace(): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')
    return `${hostname()} ${boot} ${readlinkSync('/proc/self/ns/pid')}`
  } catch {
    return hostname() // not Linux, or no /proc
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return codeOf(error) !== 'ESRCH'
  }
}
