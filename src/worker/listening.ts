// What `listen()` returns: a promise that knows whether its rejection is handled. A listener that is missing unnoticed
// must fail the start of its process, and one that the program goes without must not. `await`, `catch` and
// `Promise.all` all come down to a call of `then` with a second argument; who calls it answers for the failure from
// then on.

import { nothing } from '../nothing.ts'

export class Listening<T> extends Promise<T> {
  #onHandled: () => void = nothing

  /** Settles as `work` does. `onHandled` is called when somebody handles its rejection. */
  static of<T>(work: Promise<T>, onHandled: () => void): Promise<T> {
    const listening = new Listening<T>((resolve, reject) => work.then(resolve, reject))
    Promise.prototype.then.call(listening, undefined, nothing) // the start reports it, not `unhandledRejection`
    listening.#onHandled = onHandled
    return listening
  }

  /** What is derived from it are plain promises. */
  static override get [Symbol.species](): PromiseConstructor {
    return Promise
  }

  // biome-ignore lint/suspicious/noThenProperty: to know who calls it is what the class is for
  override then<A = T, B = never>(
    fulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    rejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    if (typeof rejected === 'function') this.#onHandled()
    return super.then(fulfilled, rejected)
  }
}
