// Codecs for tests of what a connection owes to a codec.

import type { Codec, CodecIo, CodecProtocol } from '../../src/protocol.ts'

/** A codec of which a test writes only what it is about; the rest does nothing, and `send` writes its argument. */
export function scripted(make: (io: CodecIo<string>) => Partial<Codec<string>>): CodecProtocol<string, string> {
  return {
    name: 'scripted',
    open: (io) => ({
      receive: () => undefined,
      resumed: () => undefined,
      send: (message) => io.write(message),
      drain: () => undefined,
      timeout: () => undefined,
      closed: () => undefined,
      ...make(io),
    }),
  }
}

/** A promise, and the means to settle it from outside. */
export interface Deferred {
  readonly promise: Promise<void>
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export function deferred(): Deferred {
  let settle: Omit<Deferred, 'promise'> | undefined
  const promise = new Promise<void>((resolve, reject) => {
    settle = { resolve, reject }
  })
  return { promise, ...(settle as Omit<Deferred, 'promise'>) }
}
