// The end of a server, step by step.

import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'

/** Runs one step of the clean-up: a failure (a folder that is gone) must not prevent the next step. */
export function tidy(step: () => void): void {
  try {
    step()
  } catch (error) {
    log(messageOf(error))
  }
}
