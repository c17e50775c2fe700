// Ends a command that goes on until its user has seen enough: at Ctrl+C, or when the reader (`| head`) has gone.

import { codeOf } from '../../errors.ts'
import { Exit } from '../exit-codes.ts'

/** Resolves with exit code 0. */
export function untilSeen(): Promise<Exit> {
  return new Promise((resolve) => {
    process.once('SIGINT', () => resolve(Exit.Ok))
    process.stdout.on('error', (error) => {
      if (codeOf(error) === 'EPIPE') resolve(Exit.Ok)
    })
  })
}
