// How two processes of one server prove to each other that they are: each with an HMAC of the other's challenge and of who
// both are, under the secret that the master gave them. The secret itself never travels here. Source: RFC 2104.
//
//   who was connected to     Challenge: 32 random bytes
//   who connected            Hello: 32 random bytes, 32 bytes of proof, identity as JSON
//   who was connected to     Welcome: 32 bytes of proof, terms as JSON
//
// Nothing else is read before, and a wrong proof ends the connection.

import { crypto } from '../builtins.ts'
import { ProtocolError } from '../errors.ts'

export const NONCE_BYTES = 32
export const PROOF_BYTES = 32
/** For both sides together. */
export const HANDSHAKE_MS = 5000
/** No frame of a handshake is longer, but for the terms. */
export const LONGEST_HELLO_BYTES = 4096

/** Which process. */
export interface Identity {
  readonly mailbox: string
  /** Of the group, for people. */
  readonly group: string
  readonly id: number
  readonly incarnation: number
}

/** What the one that is connected to allows, and listens to. */
export interface Terms {
  /** Unsettled at a time. */
  readonly maxMessages: number
  readonly maxBytes: number
  /** Of one frame. */
  readonly maxFrameBytes: number
  readonly interest: readonly string[]
}

export function newNonce(): Buffer {
  return crypto().randomBytes(NONCE_BYTES)
}

/** `parts`: both challenges, who connects, and the address that is meant, so that nobody passes a proof on to another. */
export function proofOf(secret: Buffer, side: 'hello' | 'welcome', parts: readonly (Uint8Array | string)[]): Buffer {
  const hmac = crypto().createHmac('sha256', secret).update(side)
  for (const part of parts) hmac.update(`\n${part.length}\n`).update(part)
  return hmac.digest()
}

export function isProof(given: Uint8Array, wanted: Uint8Array): boolean {
  return given.length === wanted.length && crypto().timingSafeEqual(given, wanted)
}

/** Throws ProtocolError. */
export function parseIdentity(text: string): Identity {
  const { mailbox, group, id, incarnation } = parsed<Identity>(text)
  if (typeof mailbox === 'string' && typeof group === 'string' && isCount(id) && isCount(incarnation))
    return { mailbox, group, id, incarnation }
  throw new ProtocolError('ERR_MESH_HANDSHAKE', 'an identity that is none')
}

/** Throws ProtocolError. */
export function parseTerms(text: string): Terms {
  const { maxMessages, maxBytes, maxFrameBytes, interest } = parsed<Terms>(text)
  const areStrings = Array.isArray(interest) && interest.every((one) => typeof one === 'string')
  if (isCount(maxMessages) && isCount(maxBytes) && isCount(maxFrameBytes) && areStrings)
    return { maxMessages, maxBytes, maxFrameBytes, interest: interest as string[] }
  throw new ProtocolError('ERR_MESH_HANDSHAKE', 'terms that are none')
}

/** What a peer says: each of its parts is still to be looked at. */
function parsed<T>(text: string): { readonly [K in keyof T]?: unknown } {
  try {
    return (JSON.parse(text) as T | null) ?? {}
  } catch (error) {
    throw new ProtocolError('ERR_MESH_HANDSHAKE', `no JSON: ${error}`)
  }
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}
