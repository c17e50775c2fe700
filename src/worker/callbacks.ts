// The names of callbacks, for plain JavaScript, where nothing else reports a misspelt one: it would never be called,
// and its clients would wait for ever. Protocols may have callbacks of their own, so only what is one typing error away
// from a known name is refused.

import type { ConnectionCallbacks, ProtocolCallbacks } from '../connection/host.ts'
import { UsageError } from '../errors.ts'
import type { Group } from '../process/group.ts'
import { likest } from '../spelling.ts'
import type { WorkerCallbackName } from './settings.ts'

type Known = WorkerCallbackName | keyof ConnectionCallbacks<unknown, unknown> | keyof ProtocolCallbacks

/** Those that are called without anything to answer, or too late for it. */
const SILENT: ReadonlySet<string> = new Set<Known>([
  ...(['onWorkerStop', 'onWorkerRetire', 'onWorkerReload'] as const),
  ...(['onWorkerMessage', 'onSendFail', 'onWorkerBufferFull', 'onWorkerBufferDrain'] as const),
  ...(['onClose', 'onError', 'onBufferFull', 'onBufferDrain'] as const),
])
const KNOWN: ReadonlySet<string> = new Set<string>([
  ...SILENT,
  ...['onConnect', 'onMessage'],
  ...['onWorkerStart', 'onWorkerActive'], // a server that pushes begins there
  ...['onWebSocketConnect', 'onWebSocketConnected', 'onWebSocketClose', 'onWebSocketPing', 'onWebSocketPong'],
])

/** Callbacks of protocols, compared once: clients with such a one may be made for each request. */
const compared = new Set<string>()

/** Properties of a Worker that only the process layer sets: all of them, or the compiler objects. */
const INTERNAL: Readonly<Record<Extract<keyof Group, `on${string}`>, true>> = {
  onBurst: true,
  onFull: true,
  onIdle: true,
}

export function isCallback(name: string): boolean {
  return /^on[A-Z]/.test(name)
}

/** Throws UsageError ERR_UNKNOWN_OPTION for a typing error; `what` is how its message begins. */
export function checkCallbackName(what: string, name: string): void {
  if (KNOWN.has(name) || compared.has(name)) return
  const meant = likest(name, [...KNOWN], 1)
  if (meant !== '')
    throw new UsageError('ERR_UNKNOWN_OPTION', `${what} has no callback '${name}': is '${meant}' meant?`)
  compared.add(name)
}

/** Whether one of these properties is a callback in which a client can be answered, or given a handler of its own. */
export function canAnswer(properties: object): boolean {
  return Object.entries(properties).some(
    ([name, value]) =>
      isCallback(name) && !SILENT.has(name) && !Object.hasOwn(INTERNAL, name) && typeof value === 'function',
  )
}
