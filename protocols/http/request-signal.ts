// A request's own AbortSignal. It says what its connection's says, until the answer is complete: what listens to it is let go
// then, however long the connection lives, and hears nothing of its end.

export class RequestSignal {
  readonly #controller = new AbortController()
  readonly #source: AbortSignal
  readonly #pass = () => this.#controller.abort(this.#source.reason)

  constructor(source: AbortSignal) {
    this.#source = source
    if (source.aborted) this.#pass()
    else source.addEventListener('abort', this.#pass, { once: true })
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** From now on it does not abort any more. */
  release(): void {
    this.#source.removeEventListener('abort', this.#pass)
  }
}
