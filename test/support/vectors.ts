// Checks that every protocol goes through: each vector in every chunking, and the fuzzer's law.

import * as assert from 'uvu/assert'
import { codeOf } from '../../src/errors.ts'
import type { AnyProtocol, Codec } from '../../src/protocol.ts'
import { chunkings, open } from '../../src/testing.ts'
import { randomBytes, randomCuts, randomOf, seedOf } from './random.ts'

export interface Vector {
  readonly title: string
  readonly bytes: string | Uint8Array
  /** As text; bytes as latin1. */
  readonly messages: readonly string[]
  /** The code of the ProtocolError that follows the messages. */
  readonly error?: string
  /** No bytes are left over, so the same input can follow. */
  readonly isWhole?: boolean
  readonly maxPackageSize?: number
}

const shown = (messages: readonly unknown[]) => messages.map((message) => (message as Buffer).toString('latin1'))

/** Each vector whole, byte by byte and in every split in two; also twice in one chunk, if it leaves no rest. */
export function runVectors(protocol: AnyProtocol, vectors: readonly Vector[]): void {
  for (const { title, bytes, messages, error, isWhole = false, maxPackageSize = 1000 } of vectors) {
    const twice = Buffer.concat([Buffer.from(bytes as Uint8Array), Buffer.from(bytes as Uint8Array)])
    for (const chunks of chunkings(bytes)) {
      const wire = open(protocol, { maxPackageSize })
      for (const chunk of chunks) wire.receive(chunk)
      const how = `${title}, in ${chunks.length}: ${chunks[0]?.length}`
      assert.equal(shown(wire.messages), messages, how)
      assert.equal(
        wire.errors.map((failure) => codeOf(failure.error)),
        error === undefined ? [] : [error],
        how,
      )
      assert.is(wire.connection.getStatus(false), error === undefined ? 'ESTABLISHED' : 'ENDING', how)
    }
    if (!isWhole) continue
    const wire = open(protocol, { maxPackageSize })
    wire.receive(twice)
    assert.equal(shown(wire.messages), [...messages, ...messages], `${title}, twice`)
  }
}

/**
 * The law: any input yields messages or a ProtocolError and nothing else, the same ones however it is split, and no
 * more is kept than the limit allows.
 */
export function fuzz(protocol: AnyProtocol, interesting: string | Uint8Array, cases: number): void {
  const seed = seedOf(`fuzz ${protocol.name}`)
  const random = randomOf(seed)
  const maxPackageSize = 64
  for (let n = 0; n < cases; n++) {
    const bytes = randomBytes(random, random(200), interesting)
    const whole = open(protocol, { maxPackageSize })
    whole.receive(bytes)
    let parsed = 0
    const cut = open(
      measured(protocol, (size) => (parsed += size)),
      { maxPackageSize },
    )
    for (const piece of randomCuts(random, bytes)) cut.receive(piece)
    const how = `SEED=${seed}, case ${n}: ${bytes.toString('hex')}`
    for (const { errors, connection } of [whole, cut]) {
      assert.ok(errors.length <= 1, how)
      assert.ok(
        errors.every(({ code, error }) => code === 3 && error?.name === 'ProtocolError' && error.cause === undefined),
        how,
      )
      assert.is(connection.getStatus(false), errors.length === 0 ? 'ESTABLISHED' : 'ENDING', how)
    }
    assert.ok(cut.errors.length > 0 || bytes.length - parsed < maxPackageSize, how)
    if (protocol.name === 'tcp') assert.equal(shown(cut.messages).join(''), shown(whole.messages).join(''), how)
    else {
      assert.equal(shown(cut.messages), shown(whole.messages), how)
      assert.is(codeOf(cut.errors[0]?.error), codeOf(whole.errors[0]?.error), how)
    }
  }
}

/** Wraps the protocol to report the size of each message in bytes; raw bytes keep nothing. */
function measured(protocol: AnyProtocol, tell: (size: number) => unknown): AnyProtocol {
  if ('open' in protocol) return { name: protocol.name, open: (io, role) => telling(protocol.open(io, role), tell) }
  const decode = (packet: Buffer) => {
    tell(packet.length)
    return protocol.decode(packet)
  }
  const { decodeAt, decodeText } = protocol
  const told: AnyProtocol = { ...protocol, decode }
  if (decodeAt !== undefined)
    told.decodeAt = (bytes, start, end) => {
      tell(end - start)
      return decodeAt(bytes, start, end)
    }
  if (decodeText !== undefined)
    told.decodeText = (text, start, end) => {
      tell(end - start) // a passage has as many characters as bytes
      return decodeText(text, start, end)
    }
  return told
}

function telling(codec: Codec, tell: (size: number) => unknown): Codec {
  const receive = (bytes: Buffer) => {
    tell(bytes.length)
    codec.receive(bytes)
  }
  return {
    receive,
    resumed: () => codec.resumed(),
    send: (message) => codec.send(message),
    drain: () => codec.drain(),
    timeout: (kind) => codec.timeout(kind),
    closed: (reason) => codec.closed(reason),
  }
}
