// The child side of describe.ts: reports what the modules declare, and exits.

import type { Credentials } from '../../rights.ts'
import { type Declaration, registry } from '../group.ts'
import type { DescribeBoot } from '../messages.ts'
import { lookUp } from './credentials.ts'
import { evaluateOnce, type Up } from './role-process.ts'

export function describe(boot: DescribeBoot, channel: Up): Promise<void> {
  return evaluateOnce(boot, channel, (groups, given) => {
    const isGiven = boot.user !== '' || boot.group !== ''
    const declarations = groups.map((group) => withCredentials(group.describe(), isGiven ? given : undefined))
    const tlsFiles = groups.map((group) => group.readTlsFiles())
    channel.send({ type: 'declared', groups: declarations, tlsFiles, settings: registry().settings })
  })
}

/**
 * Looks credentials up here and not in the master, since that needs a process that may try to switch users. `given`
 * takes precedence.
 */
function withCredentials(declaration: Declaration, given: Credentials | null | undefined): Declaration {
  const credentials = given === undefined ? lookUp(declaration.user, declaration.group) : given
  return { ...declaration, credentials }
}
