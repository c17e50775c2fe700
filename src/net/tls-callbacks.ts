// Callbacks in the `ssl` settings. node:tls calls them with nobody around who could catch, and follows no promise: from
// here on what one throws, or rejects with although it is not meant to be async, costs the handshake that asked, and
// never the process with everybody else's connections.

import type nodeTls from 'node:tls'
import { asError, defined, stackOf, UsageError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { disown, isThenable } from '../thenable.ts'

type SniCallback = NonNullable<nodeTls.TlsOptions['SNICallback']>
type Check = NonNullable<nodeTls.ConnectionOptions['checkServerIdentity']>

const errors = new LimitedLog()

/** Those of a server's callbacks that are given, guarded. Node checks that they are functions. */
export function guardedServerCallbacks({
  SNICallback,
  ALPNCallback,
  pskCallback,
}: nodeTls.TlsOptions): nodeTls.TlsOptions {
  return defined({
    SNICallback: guarded(SNICallback, followed),
    ALPNCallback: guarded(ALPNCallback, (call) => synchronous('ALPNCallback', call)),
    pskCallback: guarded(pskCallback, (call) => synchronous('pskCallback', call)),
  })
}

/** The same of a client's. */
export function guardedClientCallbacks({
  checkServerIdentity,
  pskCallback,
}: nodeTls.ConnectionOptions): nodeTls.ConnectionOptions {
  return defined({
    checkServerIdentity: guarded(checkServerIdentity, answering),
    pskCallback: guarded(pskCallback, (call) => synchronous('pskCallback', call)),
  })
}

/** Node complains of one that is no function. */
function guarded<F>(callback: F | undefined, guard: (callback: F) => F): F | undefined {
  return typeof callback === 'function' ? guard(callback) : undefined
}

/** One that answers by `done` may well be async. What it throws at once Node does take for its answer. */
function followed(choose: SniCallback): SniCallback {
  return function (this: unknown, name, done) {
    let hasAnswered = false
    const result: unknown = choose.call(this, name, (error, context) => {
      hasAnswered = true
      done(error, context)
    })
    if (!isThenable(result)) return
    Promise.resolve(result).catch((thrown) => {
      const error = asError(thrown)
      if (hasAnswered) errors.log(`ssl.SNICallback, after its answer: ${stackOf(error)}`)
      else done(error)
    })
  }
}

/** What it throws is the error that it should have returned. */
function answering(check: Check): Check {
  const guarded = synchronous('checkServerIdentity', check)
  return function (this: unknown, host, certificate) {
    try {
      return guarded.call(this, host, certificate)
    } catch (thrown) {
      return asError(thrown)
    }
  }
}

/** Its result is its answer, so it cannot be a promise. */
function synchronous<A extends unknown[], R>(name: string, call: (...args: A) => R): (...args: A) => R {
  return function (this: unknown, ...args) {
    const result = call.apply(this, args)
    if (!isThenable(result)) return result
    disown(result)
    throw new UsageError('ERR_TLS_OPTION', `ssl.${name} cannot be async: it has answered with a promise`)
  }
}
