// A request's own AbortSignal. It aborts with that of its connection, until the answer is complete: listeners of
// finished requests do not pile up on a connection that lives on, and do not hear of its end.

export class RequestSignal {
  readonly #controller = new AbortController()
  readonly #source: AbortSignal
  readonly #pass = () => this.abort(this.#source.reason)

  constructor(source: AbortSignal) {
    this.#source = source
    if (source.aborted) this.#pass()
    else source.addEventListener('abort', this.#pass, { once: true })
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason)
  }

  /** From now on it does not abort. */
  release(): void {
    this.#source.removeEventListener('abort', this.#pass)
  }
}
