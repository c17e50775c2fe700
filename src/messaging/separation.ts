// Messages of many senders and their users arrive on one link and are handled in one turn: what is put into an
// AsyncLocalStorage for one of them must not be there for the next. A scope for each message would cost as much as the
// message. So up to Node 22, where stores are properties of the async resource, all messages of one read share a
// scope, whose properties are forgotten after each of them: a field is set. From Node 24 on each has the scope, whose
// frame has no stores.

import { AsyncResource } from 'node:async_hooks'
import { isFramed, withStores } from '../net/isolation.ts'

/** One for each process: `separation`. */
class Separation {
  readonly #scope: AsyncResource
  readonly #isFramed: boolean
  #stores: object = NOTHING
  /** Whether a batch runs, so that the current scope is this one, unless a handler has entered another. */
  #isBatch = false

  constructor() {
    const neutral = new AsyncResource('millrace.messages')
    this.#isFramed = isFramed(neutral)
    this.#scope = this.#isFramed ? neutral : withStores(neutral, (isWritten) => this.#current(isWritten))
  }

  /** Runs a task that calls handlers by `handle`: it makes that cheap. */
  batch<A>(task: (a: A) => void, a: A): void {
    if (this.#isFramed) return task(a)
    this.#isBatch = true
    try {
      this.#scope.runInAsyncScope(task, undefined, a)
    } finally {
      this.#isBatch = false
      this.#stores = NOTHING
    }
  }

  /** Calls a handler without any store. Not from within another handler. */
  handle<A, B, C, R>(handler: (a: A, b: B, c: C) => R, a: A, b: B, c: C): R {
    if (!this.#isBatch) return this.#scoped(handler, a, b, c)
    try {
      return handler(a, b, c)
    } finally {
      this.#stores = NOTHING
    }
  }

  /** Calls anything without any store, wherever this is called from. */
  alone<R>(task: () => R): R {
    return this.#scoped(task, undefined, undefined, undefined)
  }

  #scoped<A, B, C, R>(task: (a: A, b: B, c: C) => R, a: A, b: B, c: C): R {
    const outer = this.#stores
    this.#stores = NOTHING
    try {
      return this.#scope.runInAsyncScope(task, undefined, a, b, c)
    } finally {
      this.#stores = outer
    }
  }

  /** Stores of the current call. */
  #current(isWritten: boolean): object {
    if (isWritten && this.#stores === NOTHING) this.#stores = {}
    return this.#stores
  }
}

const NOTHING = Object.freeze({})

export const separation = new Separation()
