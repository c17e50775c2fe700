// What a connection has sent and its stream has not been given yet, and how the stream is given it: in as few writes as
// possible, of which the next follows when the kernel has taken the one before.

import type net from 'node:net'
import { bytesOf, isChunk } from '../encoded.ts'
import type { Encoded } from '../protocol.ts'
import { endsInHalf } from './utf16.ts'

/** Bytes given to a stream at a time: it reports nothing about a write until all of it has left. */
const WRITE_BYTES = 262_144
/** Chunks of at least this size are written as they are; smaller ones are joined by copying. */
const COPY_BELOW_BYTES = 16_384
/** So many pieces that wait behind others are joined if they are small, on average. */
const JOIN_AT = 1024
const SMALL_BYTES = 512

type Chunk = string | Uint8Array

export class WriteQueue {
  /** Text and bytes, in order. */
  #chunks: Chunk[] = []
  /** How many of these are not joined any more. */
  #joined = 0
  #waiting = 0
  #given = 0

  /** Bytes that the stream has not been given. */
  get waiting(): number {
    return this.#waiting
  }

  /** Bytes of the last write, until `noteTaken`. Counted here because a stream counts text in characters. */
  get given(): number {
    return this.#given
  }

  /** Returns the size in bytes. */
  add(bytes: Encoded): number {
    return isChunk(bytes) ? this.#add(bytes) : bytes.reduce((sum, chunk) => sum + this.#add(chunk), 0)
  }

  #add(chunk: Chunk): number {
    const size = typeof chunk === 'string' ? Buffer.byteLength(chunk) : chunk.length
    if (size > 0) this.#chunks.push(chunk)
    if (this.#given > 0 && this.#chunks.length - this.#joined >= JOIN_AT) this.#join()
    this.#waiting += size
    return size
  }

  /** Small pieces that wait take much more memory than their bytes: they are joined, each once. */
  #join(): void {
    const pieces = this.#chunks.slice(this.#joined)
    const size = pieces.reduce((sum, piece) => sum + Buffer.byteLength(piece), 0)
    const isWhole = pieces.every(({ length }) => length > 0) // else a user has detached some: the stream finds that
    if (size < JOIN_AT * SMALL_BYTES && isWhole) {
      this.#chunks.length = this.#joined
      this.#chunks.push(joined(pieces, size))
    }
    this.#joined = this.#chunks.length
  }

  /** Gives the stream what waits, or a part of it if that is much. */
  giveTo(stream: net.Socket): void {
    const chunks = this.#waiting <= WRITE_BYTES ? this.#takeAll() : this.#takeSome()
    if (chunks.length === 1) stream.write(chunks[0] as Chunk)
    else if (chunks.every(isText)) writeText(stream, chunks, this.#given)
    else writeMixed(stream, chunks)
  }

  #takeAll(): Chunk[] {
    const chunks = this.#chunks
    this.#chunks = []
    this.#joined = 0
    this.#given = this.#waiting
    this.#waiting = 0
    return chunks
  }

  /** Whole chunks up to WRITE_BYTES, or that much of a longer one. */
  #takeSome(): Uint8Array[] {
    const chunks: Uint8Array[] = []
    let size = 0
    let count = 0
    while (size < WRITE_BYTES) {
      const chunk = this.#chunks[count] as Chunk
      const bytes = bytesOf(chunk)
      const room = WRITE_BYTES - size
      chunks.push(bytes.subarray(0, room))
      size += Math.min(bytes.length, room)
      if (bytes.length > room) this.#chunks[count] = bytes.subarray(room)
      else count++
    }
    this.#chunks.splice(0, count)
    this.#joined = Math.max(0, this.#joined - count)
    this.#waiting -= size
    this.#given = size
    return chunks
  }

  /** The kernel has all that was given. */
  noteTaken(): void {
    this.#given = 0
  }

  clear(): void {
    this.#chunks = []
    this.#joined = 0
    this.#waiting = 0
    this.#given = 0
  }
}

/** Checks for split surrogate pairs only if not all is ASCII, since the check makes V8 copy a concatenated text. */
function writeText(stream: net.Socket, chunks: readonly string[], size: number): void {
  const text = chunks.join('')
  if (text.length !== size && chunks.some(endsInHalf)) writeMixed(stream, chunks)
  else stream.write(text)
}

function writeMixed(stream: net.Socket, chunks: readonly Chunk[]): void {
  stream.cork()
  let small: Uint8Array[] = []
  for (const chunk of chunks) {
    const bytes = bytesOf(chunk)
    if (bytes.length < COPY_BELOW_BYTES) small.push(bytes)
    else {
      if (small.length > 0) stream.write(Buffer.concat(small))
      small = []
      stream.write(bytes)
    }
  }
  if (small.length > 0) stream.write(Buffer.concat(small))
  stream.uncork()
}

/** In memory of their own: one that lies in Node's pool would keep four times as much alive. */
function joined(chunks: readonly Chunk[], size: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(size)
  let at = 0
  for (const chunk of chunks) {
    if (typeof chunk === 'string') at += bytes.write(chunk, at)
    else {
      bytes.set(chunk, at)
      at += chunk.length
    }
  }
  return bytes
}

function isText(chunk: Chunk): chunk is string {
  return typeof chunk === 'string'
}
