// Content codings of answers (RFC 9110 section 8.4): which types are worth compressing, and zlib, off the event loop.

import type { BrotliCompress, BrotliOptions, Gzip } from 'node:zlib'
import { zlib } from '../../src/builtins.ts'
import { nothing } from '../../src/nothing.ts'
import { wrongLength } from './draft.ts'
import { piecesOf } from './release.ts'
import type { BodyStream } from './response.ts'

export type Coding = 'br' | 'gzip'

/** In order of preference. */
export const CODINGS: readonly Coding[] = ['br', 'gzip']

/** Quality for streams: brotli's default of 11 is meant for data that is compressed once and kept. */
function brotli(): BrotliOptions {
  return { params: { [zlib().constants.BROTLI_PARAM_QUALITY]: 4 } }
}

/**
 * Flushes after each piece, since it may be a while until the next and a person is reading. This costs a few bytes per
 * piece.
 */
function newCompressor(coding: Coding): BrotliCompress | Gzip {
  const { constants, createBrotliCompress, createGzip } = zlib()
  if (coding === 'br') return createBrotliCompress({ ...brotli(), flush: constants.BROTLI_OPERATION_FLUSH })
  return createGzip({ flush: constants.Z_SYNC_FLUSH })
}

/** Whether bytes of that type get smaller. Event streams do, too, but every event would have to be flushed. */
export function compressible(type: string): boolean {
  if (type.startsWith('text/event-stream')) return false
  return /^text\/|^application\/(?:json|javascript|xml|wasm|manifest\+json)|\+(?:json|xml)/i.test(type)
}

export function compressWhole(body: string | Uint8Array, coding: Coding): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, bytes: Buffer) => (error === null ? resolve(bytes) : reject(error))
    if (coding === 'br') zlib().brotliCompress(body, brotli(), done)
    else zlib().gzip(body, done)
  })
}

/**
 * Takes one piece at a time and yields what zlib has ready, as fast as it is read. If the reader returns before the
 * first piece, or while one is awaited, `body` is ended, too. Throws UsageError (ERR_BAD_RESPONSE) if `body` has not
 * `size` bytes; -1 for any number.
 */
export function compressStream(body: BodyStream, coding: Coding, size: number): AsyncIterable<Buffer> {
  const source = piecesOf(body)
  const bytes = compressed({ [Symbol.asyncIterator]: () => source }, coding, size)
  return {
    [Symbol.asyncIterator]: () => ({
      next: () => bytes.next(),
      async return() {
        // The source, too: `bytes` may be waiting for it, or may never have begun.
        const [result] = await Promise.all([bytes.return(undefined), source.return?.()])
        return result
      },
    }),
  }
}

async function* compressed(body: BodyStream, coding: Coding, size: number): AsyncGenerator<Buffer> {
  const engine = newCompressor(coding)
  let given = 0
  const ready: Buffer[] = []
  engine.on('data', (bytes: Buffer) => ready.push(bytes))
  engine.on('error', nothing) // the pending write or end() reports it
  try {
    for await (const piece of body) {
      if (size >= 0) given += Buffer.byteLength(piece)
      if (given > 0 && given > size) throw wrongLength(size, 'longer')
      await new Promise<void>((resolve, reject) => {
        engine.write(piece, (error) => (error ? reject(error) : resolve()))
      })
      yield* ready.splice(0)
    }
    if (given < size) throw wrongLength(size, 'shorter')
    await new Promise<void>((resolve, reject) => {
      engine.once('error', reject).once('end', resolve)
      engine.end()
    })
    yield* ready.splice(0)
  } finally {
    engine.destroy()
  }
}
