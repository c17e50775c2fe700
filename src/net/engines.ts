// Chooses the engine: the native one where the addon supports it, unless the other is asked for. TLS always uses
// Node's.

import { addon } from '../addon.ts'
import { UsageError } from '../errors.ts'
import type { Transport } from '../transport.ts'
import { nativeEngine } from './native-engine.ts'
import { nodeEngine } from './node-engine.ts'

interface Choice {
  readonly engine: Transport
  /** Why it is not the native engine, in words; empty when it is. */
  readonly why: string
}

/**
 * `wanted` is a name, or empty for the best available. Throws UsageError when the native engine is wanted but
 * unavailable.
 */
export function chooseEngine(wanted: string, isSecure: boolean): Choice {
  const native = wanted === 'node' || isSecure ? null : nativeEngine()
  if (native !== null) return { engine: native, why: '' }
  if (wanted === 'native' && !isSecure)
    throw new UsageError('ERR_NO_ENGINE', `the native engine takes the addon on Linux (addon: ${addon().why})`)
  return { engine: nodeEngine, why: isSecure ? 'TLS' : wanted === 'node' ? 'as asked for' : addon().why }
}
