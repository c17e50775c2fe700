// Servers that report which version of their code answers, and the reload of one.

import type { ReloadOutcome } from '../../src/process/operations/receipts.ts'
import { ask, echo, type Sandbox } from './server.ts'

/** An echo server that answers with its version: `<line> <version> <pid>`. */
export function version(version: number, count = 1, more = ''): string {
  const answer = `worker.onMessage = (connection, line) => connection.send(line + ' ${version} ' + process.pid)`
  return echo(count, `${answer}\n${more}`)
}

export function reload(box: Sandbox): Promise<ReloadOutcome> {
  return box.operate({ command: 'reload' })
}

export async function versionAt(port: number): Promise<string> {
  return (await ask(port, 'x')).split(' ')[1] ?? ''
}
