// What `start` prints when everything serves: what runs where, and a line to copy and try.

import { relative } from 'node:path'
import { version } from '../version.ts'
import type { Declaration } from './group.ts'
import { startFile } from './spawn.ts'
import { renderTable } from './tables.ts'

export interface Banner {
  readonly groups: readonly { readonly declaration: Declaration; readonly endpoint: string }[]
  readonly modules: readonly string[]
  readonly isDaemon: boolean
  readonly isQuiet: boolean
}

export function renderBanner({ groups, modules, isDaemon, isQuiet }: Banner): string {
  if (isQuiet) return ''
  const rows = groups.map(({ declaration, endpoint }) => [
    declaration.name,
    declaration.protocol || '-',
    endpoint || 'none',
    String(declaration.count),
    '[OK]',
  ])
  return [
    `millrace ${version}   Node ${process.versions.node}   pid ${process.pid}   engine node (the native engine is not built yet)`,
    renderTable([['name', 'protocol', 'listen', 'processes', 'state'], ...rows]),
    ...tryLines(groups),
    isDaemon
      ? `Stop it with: node ${fromHere(startFile())} stop ${fromHere(modules[0] ?? '')}`
      : 'Press Ctrl+C to stop.',
    '',
  ].join('\n')
}

/** A path as a person in this folder would type it. */
function fromHere(path: string): string {
  const short = relative(process.cwd(), path)
  return short.startsWith('..') ? path : short
}

function tryLines(groups: Banner['groups']): string[] {
  const speaking = groups.find(({ declaration }) => ['tcp', 'text', 'udp'].includes(declaration.protocol))
  if (speaking === undefined) return []
  const line = tryLine(speaking.endpoint)
  return [`Try: ${speaking.declaration.transport === 'udp' ? line.replace('nc -q 1', 'nc -u -w 1') : line}`]
}

/** `nc` for an endpoint; a wildcard address is reached over loopback. */
function tryLine(endpoint: string): string {
  const [, host = '', port = ''] = /^\[?([^\]]*)\]?:(\d+)$/.exec(endpoint) ?? []
  if (port === '') return `printf 'world\\n' | nc -q 1 -U ${endpoint}`
  const reachable = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  return `printf 'world\\n' | nc -q 1 ${reachable} ${port}`
}
