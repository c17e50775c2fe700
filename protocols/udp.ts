// Raw datagrams, for `udp://`: each is one whole message, as it was sent. Nothing is refused.

import { foreignBytes } from '../src/encoded.ts'
import { UsageError } from '../src/errors.ts'
import type { Protocol } from '../src/protocol.ts'

/** `udp://`: each datagram is a message. */
export const udp: Protocol<Buffer, string | Uint8Array> = {
  name: 'udp',
  input: (bytes) => bytes.length,
  decode: (datagram) => datagram,
  encode: (message) => {
    if (typeof message === 'string' || message instanceof Uint8Array) return message
    const foreign = foreignBytes(message)
    if (foreign !== null) return foreign
    throw new UsageError('ERR_ENCODE', `udp sends a string or bytes, not ${typeof message}`)
  },
}
