// Codecs for testing the contract between a connection and its codec.

import { text } from '../../protocols/text.ts'
import { asCodec } from '../../src/connection/framing-codec.ts'
import type { Codec, CodecIo, CodecProtocol } from '../../src/protocol.ts'

/**
 * A codec of which a test implements only the relevant methods; the others do nothing, and `send` writes its argument.
 */
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

/** Text through a codec that reports when it is busy, and delays each read before passing it on. */
export const slow: CodecProtocol<string, string> = {
  name: 'slow',
  open(io: CodecIo<string>, role) {
    const inner = asCodec(text).open(io, role) as Codec<string>
    let waiting: Buffer | null = null
    return {
      get isBusy() {
        return waiting !== null || inner.isBusy === true
      },
      receive(bytes) {
        waiting = Buffer.from(bytes)
        io.pause()
        queueMicrotask(() => io.resume())
      },
      resumed() {
        const bytes = waiting
        waiting = null
        if (bytes === null) inner.resumed()
        else inner.receive(bytes)
      },
      send: (message) => inner.send(message),
      drain: () => inner.drain(),
      timeout: (kind) => inner.timeout(kind),
      closed: (reason) => inner.closed(reason),
    }
  },
}

/** A promise that can be settled from outside. */
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
