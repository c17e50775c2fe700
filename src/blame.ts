// Who is at fault for what user code throws: a peer, for bytes that a protocol cannot read, or the caller.

import { isReadable, messageOf, ProtocolError, UsageError } from './errors.ts'
import type { Encoded, Protocol } from './protocol.ts'
import { disown } from './thenable.ts'

/** Decodes a packet. Whatever `decode` throws is the peer's fault. */
export function decodeWith(protocol: Protocol, packet: Buffer): unknown {
  try {
    return decoded(protocol, protocol.decode(packet))
  } catch (error) {
    throw blamed(error, 'ERR_BAD_PACKET')
  }
}

/**
 * What `decode` has returned. Not a promise: of an async `decode`, handlers would get that as their message, and its
 * rejection would be nobody's. Only native promises are looked for: this costs text and bytes 1 ns, an object 2 ns.
 * A look for a `then`, which other libraries' promises have, costs bytes 5 ns, and objects of many shapes 11 ns.
 */
export function decoded(protocol: Protocol, message: unknown): unknown {
  if (typeof message !== 'object' || ArrayBuffer.isView(message) || !(message instanceof Promise)) return message
  disown(message)
  throw new ProtocolError('ERR_BAD_PACKET', `decode() of protocol '${protocol.name}' answered with a promise`)
}

/** Encodes a message. Whatever `encode` throws is the sender's fault, a UsageError. */
export function encodeWith(protocol: Protocol, message: unknown): Encoded {
  try {
    return protocol.encode(message)
  } catch (error) {
    throw sendersFault(protocol.name, error)
  }
}

/** Turns what encoding threw into the sender's fault. */
export function sendersFault(name: string, error: unknown): UsageError {
  if (isNamed(error, 'UsageError')) return error as UsageError
  const why = `protocol '${name}' cannot encode this message: ${messageOf(error)}`
  return new UsageError('ERR_ENCODE', why, { cause: error })
}

/** Turns what a codec threw into the peer's fault. */
export function blamed(error: unknown, code: string): ProtocolError {
  if (isNamed(error, 'ProtocolError')) return error as ProtocolError
  return new ProtocolError(code, messageOf(error), { cause: error })
}

/** Compares by name: a protocol of another package may have been built with another copy of this one. */
function isNamed(error: unknown, name: string): boolean {
  return isReadable(error) && error.name === name
}
