// What a server's user says about a client that asks to connect. Whoever authenticates here must not admit a client by
// mistake: what is not known to admit is an error, and the client gets 500.

import { UsageError } from '../../src/errors.ts'
import { Response } from '../http/response.ts'

/**
 * What `onWebSocketConnect` may return: nothing, null or true admit the client, unless `response` has a status that
 * refuses; false and a Response turn it away.
 */
// biome-ignore lint/suspicious/noConfusingVoidType: callbacks without a return statement have it
export type Verdict = boolean | Response | null | undefined | void

/** The answer that turns the client away; null for one that is admitted. Throws UsageError for what is no Verdict. */
export function refusalBy(answer: unknown, response: Response): Response | null {
  if (!isVerdict(answer))
    throw new UsageError('ERR_BAD_RESPONSE', `onWebSocketConnect returned ${shown(answer)}, which admits nobody`)
  if (answer === false) return denial(response)
  if (answer instanceof Response && answer !== response) return answer
  return isRefusal(response) ? response : null
}

export function isVerdict(answer: unknown): answer is Verdict {
  return answer === undefined || answer === null || typeof answer === 'boolean' || answer instanceof Response
}

/** Whether the status refuses. 200 is a Response's default and means no decision. */
function isRefusal({ status }: Response): boolean {
  return status !== 200 && status !== 101
}

/** Refuses with what the user has set on `response`. */
function denial(response: Response): Response {
  if (!isRefusal(response)) response.withStatus(403)
  if (response.body !== null || response.file !== null) return response
  return response.setHeader('Content-Type', 'text/plain; charset=utf-8').withBody('not allowed\n')
}

function shown(answer: unknown): string {
  const name: unknown = Object(answer).constructor?.name
  if (name === 'Response') return "a Response, but not that of millrace (import { Response } from 'millrace')"
  return typeof answer === 'object' ? 'an object' : `a ${typeof answer}`
}
