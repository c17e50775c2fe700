// The visitor's session in a handshake on a port that is shared with HTTP: loaded if the user asks for it, and stored
// before the answer, which brings the cookie.

import { UsageError } from '../../src/errors.ts'
import { nothing } from '../../src/nothing.ts'
import type { Request } from '../http/request.ts'
import { checkField } from '../http/response.ts'
import type { Session, SessionSource } from '../http/settings.ts'

export class Visit {
  readonly #sessions: SessionSource | null
  #session: Promise<Session> | null = null
  #isOver = false
  #lines = ''

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

  /**
   * Field lines that the answer must have besides its own: the cookie. They are never set on a Response, which may be a
   * constant of the user's, and then the next visitor would get the cookie of this one.
   */
  get lines(): string {
    return this.#lines
  }

  /** No answer can bring a cookie from now on. */
  end(): void {
    this.#isOver = true
  }

  /** Stores what was changed. If the client must have a cookie, it is in `lines` from then on. */
  async store(request: Request): Promise<void> {
    // One that could not be loaded has nothing to store: the user has the error, and decided what to make of it.
    const session = await this.#session?.catch(nothing)
    const cookie = session ? await this.#sessions?.commit(session, request.scheme === 'https') : null
    if (typeof cookie !== 'string') return
    checkField('Set-Cookie', [cookie])
    this.#lines = `Set-Cookie: ${cookie}\r\n`
  }
}
