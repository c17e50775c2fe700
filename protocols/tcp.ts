// Raw bytes, for `tcp://` and `unix://`: every read is a message, split wherever the network happened to split it.
// Nothing is refused and nothing is kept, so no size limit applies.

import { encodedSize } from '../src/encoded.ts'
import type { Codec, CodecIo, CodecProtocol, Encoded } from '../src/protocol.ts'

/** `tcp://`, `unix://`, `ssl://`: bytes as they come. */
export const tcp: CodecProtocol<Buffer, string | Uint8Array> = {
  name: 'tcp',
  open: (io) => new RawCodec(io),
  prepare(bytes) {
    encodedSize(bytes) // throws for values that cannot be sent as they are
    return bytes
  },
}

class RawCodec implements Codec<string | Uint8Array> {
  readonly #io: CodecIo<Buffer>

  constructor(io: CodecIo<Buffer>) {
    this.#io = io
  }

  receive(bytes: Buffer): void {
    this.#io.emit(Buffer.from(bytes)) // copied: the user may keep it, and `bytes` is lent
  }

  resumed(): void {
    // Nothing is kept.
  }

  send(bytes: Encoded): boolean {
    return this.#io.write(bytes)
  }

  drain(): void {
    // Raw bytes have no goodbye.
  }

  timeout(): void {
    // No deadlines are set.
  }

  closed(): void {
    // Nothing to release.
  }
}
