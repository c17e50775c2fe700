// `upgrade`: another process becomes the master.

import { realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import { CommandError, Exit } from '../exit-codes.ts'
import { startFile } from '../start-file.ts'
import { renderUpgrade } from '../terminal/tables.ts'
import { type Command, NO_WORDS } from './command.ts'
import { show, showJson } from './print.ts'
import { withProgress } from './progress.ts'
import { askFound, findServer, need } from './server.ts'
import { runOtherCopy } from './start.ts'

export const upgrade: Command = {
  operands: '[app.js]',
  summary: 'another process becomes the master, with the Node and the millrace of now; no port is closed',
  details: `The copy of the package that app.js finds now takes over, on the Node that runs this command. It has the sockets, and is in
charge when all of its processes serve; then the old ones drain as at a reload. Whatever fails until then leaves the old master,
with the reason. A server in the foreground cannot be upgraded, unless it is a service that systemd started with Type=notify.`,
  flags: ['node'],
  words: NO_WORDS,
  async run(line) {
    const other = runOtherCopy(line)
    if (other !== null) return other
    const { flags } = line
    const node = flags.node === undefined ? process.execPath : resolve(flags.node)
    const request = { command: 'upgrade', node, startFile: realpathSync(startFile()) } as const
    const found = await findServer(line)
    const outcome = need((await withProgress(flags, found, () => askFound(found, request))).upgrade)
    const { reason, exitCode, code, next } = outcome
    if (reason !== '') throw new CommandError(exitCode, `upgrade given up: ${reason}`, { code, next, report: outcome })
    if (flags.json === true) return showJson(outcome)
    return flags.quiet === true ? Exit.Ok : show(renderUpgrade(outcome))
  },
}
