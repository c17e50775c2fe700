// Whether a process has its inspector where a line on its stderr says. A peer's text, or a program that it has started,
// may have printed such a line; that it listens there, only the process itself can bring about. proc(5), /proc/net/tcp.

import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { codeOf } from '../../errors.ts'

/** In /proc/net/tcp. */
const LISTEN = '0A'

/** Whether a process listens on a port of 127.0.0.1. True if the system does not tell: other users' files, no /proc. */
export function listensOnLoopback(pid: number, port: number): boolean {
  try {
    const inodes = listenersAt(port, readFileSync(`/proc/${pid}/net/tcp`, 'latin1'))
    return inodes.size > 0 && readdirSync(`/proc/${pid}/fd`).some((fd) => inodes.has(linkOf(pid, fd)))
  } catch {
    return true // EACCES (a container's root without CAP_SYS_PTRACE), ENOENT
  }
}

/** What the descriptors of sockets that listen there lead to: `socket:[4711]`. */
function listenersAt(port: number, table: string): Set<string> {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  const places = [`0100007F:${hex}`, `7F000001:${hex}`] // in the byte order of the machine
  const rows = table.split('\n').map((line) => line.trim().split(/\s+/))
  return new Set(
    rows
      .filter(([, place = '', , state]) => state === LISTEN && places.includes(place))
      .map((fields) => `socket:[${fields[9]}]`),
  )
}

function linkOf(pid: number, fd: string): string {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
    return '' // closed by now
  }
}
