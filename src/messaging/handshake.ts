// How two processes of one server authenticate each other: each sends an HMAC, keyed with the secret the master gave
// them, over both challenges and what it says about itself. The secret itself is never sent. Source: RFC 2104.
//
//   accepting side      Challenge: 32 random bytes
//   connecting side     Hello: 32 random bytes, 32 bytes of proof, identity as JSON
//   accepting side      Welcome: 32 bytes of proof, terms as JSON
//
// Nothing else is read before, and a wrong proof ends the connection.

import { crypto } from '../builtins.ts'
import { ProtocolError } from '../errors.ts'
import { macOf } from '../signing.ts'

export const NONCE_BYTES = 32
export const PROOF_BYTES = 32
/** Time limit for both sides together. */
export const HANDSHAKE_MS = 5000
/** No frame of a handshake may be longer, except the terms. */
export const LONGEST_HELLO_BYTES = 4096

/** Identifies a process. */
export interface Identity {
  readonly mailbox: string
  /** Name of the group, for people. */
  readonly group: string
  readonly id: number
  readonly incarnation: number
  /** Where it is reached: no two processes have the same one. Empty if it does not say so. */
  readonly address: string
}

/** What the accepting side allows, and what it subscribes to. */
export interface Terms {
  /** How many messages may be unsettled at a time. */
  readonly maxMessages: number
  readonly maxBytes: number
  /** Limit of one frame. */
  readonly maxFrameBytes: number
  readonly interest: readonly string[]
}

export function newNonce(): Buffer {
  return crypto().randomBytes(NONCE_BYTES)
}

/**
 * `parts`: both challenges, then for Hello the connecting side's identity and the address it meant, so that no process
 * can pass a proof on to another; for Welcome the terms.
 */
export function proofOf(secret: Buffer, side: 'hello' | 'welcome', parts: readonly (Uint8Array | string)[]): Buffer {
  return macOf(secret, [side, ...parts.flatMap((part) => [`\n${part.length}\n`, part])])
}

/** Throws ProtocolError. */
export function parseIdentity(text: string): Identity {
  const { mailbox, group, id, incarnation, address = '' } = parsed<Identity>(text)
  const areStrings = [mailbox, group, address].every((one) => typeof one === 'string')
  if (areStrings && isCount(id) && isCount(incarnation))
    return { mailbox: mailbox as string, group: group as string, id, incarnation, address: address as string }
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

/** Parses what a peer sent. Its fields are still unchecked. */
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
