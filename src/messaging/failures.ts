// What goes wrong with a message, as an error here and as bytes on the way back to its sender.

import {
  codeOf,
  messageOf,
  PeerError,
  ProtocolError,
  propertyOf,
  RemoteError,
  type SendError,
  UsageError,
} from '../errors.ts'
import { type Form, type Packed, pack, unpack } from './wire.ts'

export function lost(to: string, why: string, mayHaveBeenHandled: boolean): PeerError {
  const whether = mayHaveBeenHandled ? 'it may have handled the message' : 'it has not handled the message'
  return new PeerError('ERR_PEER_LOST', `${to}: ${why}; ${whether}`, mayHaveBeenHandled)
}

/** Of what others have for its queue, though it has not got through to this process. */
export function missed(to: string, why: string): PeerError {
  return new PeerError('ERR_PEER_LOST', `${to}: ${why}; it has not handled the message, but others may have`, true)
}

interface Failure {
  readonly name: string
  readonly message: string
  readonly code: string
}

function failureOf(error: unknown): Failure {
  const [name, code] = [propertyOf(error, 'name'), propertyOf(error, 'code')]
  return { name: textOr(name, 'Error'), message: messageOf(error), code: textOr(code, '') }
}

/** Packs what a handler threw, or why it was not called. */
export function packFailure(error: unknown): Packed {
  return pack(failureOf(error))
}

/** What a handler threw, as another process would see it. */
export function remoteErrorOf(error: unknown): RemoteError {
  const { name, message, code } = failureOf(error)
  return new RemoteError(name, message, code)
}

/** Throws ProtocolError. */
export function readFailure(form: Form, bytes: Buffer, start: number, end: number): SendError {
  if (start >= end) throw new ProtocolError('ERR_MESH_FRAME', 'a failure that says nothing')
  const failure = Object(unpack(form, bytes, start + 1, end)) as Partial<Failure>
  const [message, code] = [textOr(failure.message, ''), textOr(failure.code, '')]
  if (bytes[start] === 0) return new PeerError(code, message, false)
  return new RemoteError(textOr(failure.name, 'Error'), message, code)
}

/** Anything can be thrown, with anything as its name. */
export function textOr(value: unknown, other: string): string {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : other
}

/** Turns an error of a late send into a loss: the code that sent the message has moved on. */
export function refusedAs(error: unknown): PeerError {
  return new PeerError(codeOf(error), messageOf(error), false)
}

/**
 * What the caller of a request is told that `asked` processes have not answered: it was not handled only if none of
 * them has.
 * @param failures of those that have failed, at least one; the others have handled it, and have no answer
 */
export function failureOfAll(failures: readonly unknown[], asked: number): unknown {
  const most = failures.find((error) => !isRefusal(error))
  if (most !== undefined) return most
  const [first] = failures
  if (failures.length === asked) return first
  return new PeerError(codeOf(first), `${messageOf(first)}; somebody else has handled the message`, true)
}

/** Whether an error says that the message has not been handled. The reason of a signal does not say so. */
function isRefusal(error: unknown): boolean {
  return error instanceof UsageError || (error instanceof PeerError && !error.mayHaveBeenHandled)
}
