// Shared by the commands that change a running server and wait for it: request, progress and result.

import type { Request } from '../control/requests.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import type { ReloadOutcome } from '../operations/receipts.ts'
import { paintFor } from '../terminal/style.ts'
import { renderOutcome } from '../terminal/tables.ts'
import type { Line } from './line.ts'
import { show, showJson } from './print.ts'
import { withProgress } from './progress.ts'
import { askFound, findServer, need } from './server.ts'

/** Requests an operation and shows its progress and outcome. `past` is the verb in `reloaded in 2 s`. */
export async function operate(line: Line, request: Request, past: string): Promise<Exit> {
  const { flags } = line
  const found = await findServer(line) // tells a master that hangs from one at work
  const { outcome } = await withProgress(flags, found, () => askFound(found, request))
  return conclude(line, request.command, need(outcome), past)
}

async function conclude({ flags }: Line, command: string, outcome: ReloadOutcome, past: string): Promise<Exit> {
  const { reason, exitCode, code, next, slots, canaries } = outcome
  const hasTable = flags.json !== true && flags.quiet !== true && (slots.length > 0 || reason === '')
  // An earlier master, to which an upgrade has yet to come, does not warn.
  for (const { warning = '' } of canaries) if (warning !== '') process.stderr.write(`millrace: warning: ${warning}\n`)
  if (hasTable) await show(renderOutcome(outcome, past, paintFor(process.stdout)))
  if (reason !== '')
    throw new CommandError(exitCode, exitCode === Exit.Usage ? reason : `${command} given up: ${reason}`, {
      ...{ code, next },
      report: outcome,
    })
  return flags.json === true ? showJson(outcome) : Exit.Ok
}
