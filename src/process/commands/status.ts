// `status` and `connections`: what runs.

import type { ConnectionPage, Cursor } from '../status/status.ts'
import { renderConnections, renderStatus } from '../terminal/tables.ts'
import { type Command, NO_WORDS } from './command.ts'
import { show, showAs, showJson } from './print.ts'
import { askServer, need } from './server.ts'

export const status: Command = {
  operands: '[app.js]',
  summary: 'what runs: processes, connections, counters',
  details: `Answers within 200 ms, also when a worker hangs: it is shown as [busy], and as [hung] when that lasts.`,
  flags: [],
  words: NO_WORDS,
  async run(line) {
    return showAs(line.flags, need((await askServer(line, { command: 'status' })).status), renderStatus)
  },
}

export const connections: Command = {
  operands: '[app.js]',
  summary: 'every open connection',
  details: `Of all processes that answer; those that do not are named.`,
  flags: [],
  words: NO_WORDS,
  async run(line) {
    const pages: ConnectionPage[] = []
    let cursor: Cursor | undefined
    do {
      const page = need((await askServer(line, { command: 'connections', cursor })).page)
      pages.push(page)
      cursor = page.next ?? undefined
    } while (cursor !== undefined)
    if (line.flags.json !== true) return show(renderConnections(pages))
    return showJson({ connections: pages.flatMap(({ rows }) => rows), silent: pages.flatMap(({ silent }) => silent) })
  },
}
