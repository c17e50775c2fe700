// The visitor's session in a handshake on a port that is shared with HTTP: loaded if the user asks for it, and stored
// before the answer, which brings the cookie.

import { UsageError } from '../../src/errors.ts'
import { nothing } from '../../src/nothing.ts'
import type { Request } from '../http/request.ts'
import type { Response } from '../http/response.ts'
import type { Session, SessionSource } from '../http/settings.ts'

export class Visit {
  readonly #sessions: SessionSource | null
  #session: Promise<Session> | null = null
  #isOver = false

  /** `sessions` is null if they are off, or there is no HTTP. */
  constructor(sessions: SessionSource | null) {
    this.#sessions = sessions
  }

  /** For `request.session()`. Throws UsageError when it cannot be stored any more. */
  load(request: Request): Promise<Session> {
    if (this.#sessions === null)
      throw new UsageError(
        'ERR_NO_SESSIONS',
        'sessions are off in this handshake: http({ sessions, websocket }), or await sessions.load(request.cookies)',
      )
    if (this.#isOver)
      throw new UsageError(
        'ERR_TOO_LATE',
        'the handshake is over, its cookie cannot be set: to look only, await sessions.load(request.cookies)',
      )
    this.#session = this.#sessions.load(request.cookies)
    return this.#session
  }

  /** Whether there is a session to store. */
  get hasBegun(): boolean {
    return this.#session !== null
  }

  /** No answer can bring a cookie from now on. */
  end(): void {
    this.#isOver = true
  }

  /** Stores what was changed, and adds the cookie to `response` if its client must have one. */
  async store(request: Request, response: Response): Promise<void> {
    // One that could not be loaded has nothing to store: the user has the error, and decided what to make of it.
    const session = await this.#session?.catch(nothing)
    const cookie = session ? await this.#sessions?.commit(session, request.scheme === 'https') : null
    if (typeof cookie === 'string') response.addHeader('Set-Cookie', cookie)
  }
}
