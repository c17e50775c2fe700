// What `start` prints when everything serves: what runs where, and a line to copy and try.

import { resolve } from 'node:path'
import { addon } from '../../addon.ts'
import { formatEndpoint, parseEndpoint } from '../../endpoint.ts'
import { version } from '../../version.ts'
import type { Declaration } from '../group.ts'
import { fromHere } from '../paths.ts'
import { startFile } from '../start-file.ts'
import { engineOf, engineWords } from '../status/status.ts'
import { renderTable } from './tables.ts'

interface Banner {
  readonly groups: readonly { readonly declaration: Declaration; readonly endpoint: string }[]
  readonly modules: readonly string[]
  readonly isDaemon: boolean
  readonly isQuiet: boolean
  readonly isDirect: boolean
  /** Named by a flag, so that other commands need the same flag; otherwise undefined. */
  readonly runDir: string | undefined
}

export function renderBanner({ groups, modules, isDaemon, isQuiet, isDirect, runDir }: Banner): string {
  if (isQuiet) return ''
  const rows = groups.map(({ declaration, endpoint }) => [
    declaration.name,
    protocolOf(declaration),
    endpoint || 'none',
    String(declaration.count),
    '[OK]',
  ])
  const engine = engineWords(engineOf(groups.map(({ declaration }) => declaration)), addon().why)
  return [
    `millrace ${version}   Node ${process.versions.node}   pid ${process.pid}   ${engine}`,
    renderTable([['name', 'protocol', 'listen', 'processes', 'state'], ...rows]),
    ...tryLines(groups),
    isDaemon
      ? `Stop it with: node ${stopWords(fromHere(modules[0] ?? ''), isDirect, runDir)}`
      : 'Press Ctrl+C to stop.',
    '',
  ].join('\n')
}

function stopWords(module: string, isDirect: boolean, runDir: string | undefined): string {
  const where = runDir === undefined ? '' : ` --run-dir ${shellWord(fromHere(resolve(runDir)))}`
  const stop = isDirect ? `${shellWord(module)} stop` : `${shellWord(fromHere(startFile()))} stop ${shellWord(module)}`
  return `${stop}${where}`
}

/** A word for sh(1): quoted if it has characters that a shell would take for something else. */
export function shellWord(word: string): string {
  return /^[\p{L}\p{N}_@%+=:,./-]+$/u.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
}

/** `text`, `text, ssl`, `text, udp`: shows which addresses use TLS, and which are not streams. */
export function protocolOf({ protocol, transport }: Declaration): string {
  if (protocol === '') return '-'
  const isSaid = transport === 'tcp' || transport === 'unix' || transport === protocol
  return isSaid ? protocol : `${protocol}, ${transport}`
}

function tryLines(groups: Banner['groups']): string[] {
  const speaking = groups.find(({ declaration }) => ['tcp', 'text', 'udp'].includes(declaration.protocol))
  if (speaking === undefined) return []
  const { declaration, endpoint } = speaking
  if (declaration.transport === 'ssl') return [`Try: ${secureLine(endpoint)}`]
  const line = tryLine(endpoint)
  return [`Try: ${declaration.transport === 'udp' ? line.replace('nc -q 1', 'nc -u -w 1') : line}`]
}

/** An `nc` command line for an endpoint. */
function tryLine(endpoint: string): string {
  const at = reachable(endpoint)
  return at === null
    ? `printf 'world\\n' | nc -q 1 -U ${shellWord(endpoint)}`
    : `printf 'world\\n' | nc -q 1 ${at.host} ${at.port}`
}

/** openssl's client exits at the end of its input, so that is held open for a moment. */
function secureLine(endpoint: string): string {
  const at = reachable(endpoint)
  const where = at === null ? `-unix ${shellWord(endpoint)}` : `-connect ${formatEndpoint(at.host, at.port)}`
  return `(printf 'world\\n'; sleep 1) | openssl s_client -quiet -no_ign_eof ${where}`
}

/** A wildcard address is reached over loopback; null for a path. */
function reachable(endpoint: string): { host: string; port: number } | null {
  const { ip, port } = parseEndpoint(endpoint)
  if (port === 0) return null
  return { host: ip === '0.0.0.0' ? '127.0.0.1' : ip === '::' ? '::1' : ip, port }
}
