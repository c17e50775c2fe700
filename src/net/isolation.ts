// The native engine serves many connections in one call: what a handler puts into an AsyncLocalStorage must not be
// visible to the next connection. Node stores it in one of two ways, each with its own solution:
//
// - Up to Node 22, stores are properties of the current async resource. Ours is a proxy whose properties are those of
//   the connection being served; a connection without any costs nothing.
// - From Node 24 on, the current frame is replaced as a whole. Each connection is served in the original frame.

import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'

/** Serves one connection: `serve(owner, ...)`. */
type Serve<T extends object> = (owner: T, at: number) => void

export class Isolation<T extends object> {
  /** The async resource the engine runs in. */
  readonly resource: object
  readonly #stores = new WeakMap<object, object>()
  readonly #neutral: AsyncResource | null
  #owner: object = {}

  constructor() {
    const neutral = new AsyncResource('millrace.engine')
    this.#neutral = isFramed(neutral) ? neutral : null
    this.resource = new Proxy({}, this.#handler())
  }

  run(serve: Serve<T>, owner: T, at: number): void {
    if (this.#neutral !== null) return this.#neutral.runInAsyncScope(serve, undefined, owner, at)
    this.#owner = owner
    serve(owner, at)
  }

  /** From now on, calls belong to no connection. */
  leave(): void {
    this.#owner = {}
  }

  #handler(): ProxyHandler<object> {
    const stores = (isWritten: boolean): object => {
      const own = this.#stores.get(this.#owner)
      if (own !== undefined || !isWritten) return own ?? NOTHING
      const made = {}
      this.#stores.set(this.#owner, made)
      return made
    }
    return {
      get: (_target, key) => Reflect.get(stores(false), key),
      has: (_target, key) => Reflect.has(stores(false), key),
      set: (_target, key, value) => Reflect.set(stores(true), key, value),
      defineProperty: (_target, key, descriptor) => Reflect.defineProperty(stores(true), key, descriptor),
      deleteProperty: (_target, key) => Reflect.deleteProperty(stores(true), key),
    }
  }
}

/**
 * The same for an engine whose connections have async resources of Node's own. A task runs as if in one of these: up to
 * Node 22 it sees and changes the stores of that resource, from 24 on it sees none.
 */
export class Guest {
  readonly #scope: AsyncResource
  #host: object = {}

  constructor() {
    const neutral = new AsyncResource('millrace.guest')
    this.#scope = isFramed(neutral) ? neutral : withStores(neutral, () => this.#host)
  }

  run<A, B>(host: object, task: (a: A, b: B) => void, a: A, b: B): void {
    const outer = this.#host
    this.#host = host
    try {
      this.#scope.runInAsyncScope(task, undefined, a, b)
    } finally {
      this.#host = outer
    }
  }
}

/**
 * A resource whose stores (up to Node 22: properties) are kept elsewhere. What makes it an AsyncResource stays its own.
 * @param stores the object that has them at the moment; one that may be written if `isWritten`
 */
export function withStores(resource: AsyncResource, stores: (isWritten: boolean) => object): AsyncResource {
  return new Proxy(resource, {
    get: (target, key) => Reflect.get(Reflect.has(target, key) ? target : stores(false), key),
    has: (target, key) => Reflect.has(target, key) || Reflect.has(stores(false), key),
    set: (_target, key, value) => Reflect.set(stores(true), key, value),
  })
}

const NOTHING = Object.freeze({})

/** Whether leaving a scope restores the stores from before it. */
export function isFramed(resource: AsyncResource): boolean {
  const probe = new AsyncLocalStorage<boolean>()
  resource.runInAsyncScope(() => probe.enterWith(true))
  const isKept = resource.runInAsyncScope(() => probe.getStore() === true)
  probe.disable()
  return !isKept
}
