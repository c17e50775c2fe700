// Length-prefixed packets, compatible with Workerman's Frame. A total length below the four bytes of the head is
// refused (Workerman waits forever on 0).
//
//   | total length, 4 bytes, big-endian, head included | payload |

import { foreignBytes, isChunk } from '../src/encoded.ts'
import { ProtocolError, UsageError } from '../src/errors.ts'
import { lengthPrefixed } from '../src/protocol/framing.ts'
import type { Encoded, Protocol } from '../src/protocol.ts'

const HEAD = 4
const MAX_TOTAL = 0xffffffff

/** `frame://`: packets of a total length in 4 bytes, big-endian, and a payload. */
export const frame: Protocol<Buffer, string | Uint8Array> = {
  name: 'frame',
  input: lengthPrefixed({ bytes: HEAD, includesHeader: true }),
  decode: payloadOf,
  encode: (message): Encoded => {
    const payload = isChunk(message) ? message : foreignBytes(message)
    if (payload === null) {
      throw new UsageError('ERR_ENCODE', `frame sends a string or bytes, not ${typeof message}`)
    }
    const total = HEAD + Buffer.byteLength(payload)
    if (total > MAX_TOTAL)
      throw new UsageError('ERR_ENCODE', `a frame of ${total} bytes is over the format's ${MAX_TOTAL}`)
    const head = Buffer.allocUnsafe(HEAD)
    head.writeUInt32BE(total)
    return [head, payload]
  },
}

/** The length is looked at here too: a datagram comes without `input`, and may be anything. */
function payloadOf(packet: Buffer): Buffer {
  if (packet.length < HEAD) throw badLength(`a packet of ${packet.length} bytes has no room for its length`)
  const declared = packet.readUInt32BE()
  if (declared !== packet.length) throw badLength(`declared length ${declared} of a packet of ${packet.length} bytes`)
  return packet.subarray(HEAD)
}

function badLength(message: string): ProtocolError {
  return new ProtocolError('ERR_BAD_LENGTH', message)
}
