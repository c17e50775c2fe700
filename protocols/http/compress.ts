// Content codings of answers (RFC 9110 section 8.4): what is worth it, what the client takes, and zlib, off the loop.

import {
  type BrotliCompress,
  brotliCompress,
  constants,
  createBrotliCompress,
  createGzip,
  type Gzip,
  gzip,
} from 'node:zlib'
import type { BodyStream } from './response.ts'

export type Coding = 'br' | 'gzip'

/** Of a stream: brotli's default of 11 is for what is compressed once and kept. */
const BROTLI = { params: { [constants.BROTLI_PARAM_QUALITY]: 4 } }

/** Whether bytes of that type get smaller. Event streams do, too, but every event would have to be flushed. */
export function compressible(type: string): boolean {
  if (type.startsWith('text/event-stream')) return false
  return /^text\/|^application\/(?:json|javascript|xml|wasm|manifest\+json)|\+(?:json|xml)/i.test(type)
}

/** The coding that the client likes best, brotli when it is all one; null for none. */
export function negotiated(acceptEncoding: string): Coding | null {
  const weights = new Map<string, number>()
  for (const item of acceptEncoding.toLowerCase().split(',', 20)) {
    const [name = '', ...parameters] = item.split(';')
    const weight = parameters.map((part) => /^\s*q=([01](?:\.\d{0,3})?)\s*$/.exec(part)?.[1]).find(Boolean)
    weights.set(name.trim(), weight === undefined ? 1 : Number(weight))
  }
  const weightOf = (coding: string) => weights.get(coding) ?? weights.get('*') ?? 0
  const best = weightOf('br') >= weightOf('gzip') ? 'br' : 'gzip'
  return weightOf(best) > 0 ? best : null
}

export function compressWhole(body: string | Uint8Array, coding: Coding): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, bytes: Buffer) => (error === null ? resolve(bytes) : reject(error))
    if (coding === 'br') brotliCompress(body, BROTLI, done)
    else gzip(body, done)
  })
}

/** One piece in, what zlib has ready out: as fast as it is read. */
export async function* compressStream(body: BodyStream, coding: Coding): AsyncGenerator<Buffer> {
  const engine: Gzip | BrotliCompress = coding === 'br' ? createBrotliCompress(BROTLI) : createGzip()
  const ready: Buffer[] = []
  engine.on('data', (bytes: Buffer) => ready.push(bytes))
  try {
    for await (const piece of body) {
      await new Promise<void>((resolve, reject) => {
        engine.write(piece, (error) => (error ? reject(error) : resolve()))
      })
      yield* ready.splice(0)
    }
    await new Promise<void>((resolve, reject) => {
      engine.once('error', reject).once('end', resolve)
      engine.end()
    })
    yield* ready.splice(0)
  } finally {
    engine.destroy()
  }
}
