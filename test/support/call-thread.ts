// A thread that does nothing but call the addon, in the way that `workerData` names, until it is ended.

import { parentPort, workerData } from 'node:worker_threads'
import { addon } from '../../src/addon.ts'

const { sys, newEngine, zlib } = addon()
const bytes = Buffer.alloc(100)

const CALLS: Record<string, () => unknown> = {
  opens: () => sys?.duplicate(1).close(),
  throws: () => sys?.duplicate('x' as never),
  'makes engines': () => newEngine?.(() => undefined, {}),
  compresses: () => zlib?.newDeflater(9, 1, 1).compress(bytes),
}

parentPort?.postMessage('calls')
for (;;) {
  try {
    CALLS[workerData]?.()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ERR_INVALID_ARG_TYPE' && code !== 'EMFILE') throw error
  }
}
