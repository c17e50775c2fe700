// Lets go of what an answer holds that will not be sent, or not to its end: an open file, a stream.

import { isChunk } from '../../src/encoded.ts'
import { nothing } from '../../src/nothing.ts'
import { type BodyStream, Response } from './response.ts'
import type { AnswerParts } from './settings.ts'

export function isParts(message: unknown): message is AnswerParts {
  if (typeof message !== 'object' || message === null) return false
  const { close, headers } = message as Partial<AnswerParts>
  return typeof close === 'function' && typeof headers?.[Symbol.iterator] === 'function'
}

/**
 * A stream by itself, which is a body and no answer. An object with a JSON of its own is an answer, whatever else it
 * is.
 */
export function isStream(message: unknown): message is BodyStream {
  if (typeof message !== 'object' || message === null || message instanceof Response || isParts(message)) return false
  const { getReader, toJSON } = message as { getReader?: unknown; toJSON?: unknown }
  return typeof toJSON !== 'function' && (typeof getReader === 'function' || Symbol.asyncIterator in message)
}

/** Releases what an answer holds that will not be sent: a file, a stream. */
export function discardAnswer(message: unknown): void {
  const body = streamOf(message)
  if (isParts(message)) quietly(() => message.close())
  else if (body !== null) letGo(body)
  else if (isStream(message)) letGo(message)
}

export function streamOf(message: unknown): BodyStream | null {
  const body = message instanceof Response || isParts(message) ? message.body : null
  return isChunk(body) ? null : (body ?? null) // it is the user's, and may be undefined
}

/**
 * A Readable may fail before anybody reads it, as a file that cannot be opened does, and without a listener that would
 * end the process. Who reads it later gets the error nevertheless.
 */
export function holdErrors(body: BodyStream): void {
  const { on, destroy } = Object(body) as { on?: unknown; destroy?: unknown } // it may not even be one
  if (typeof on === 'function' && typeof destroy === 'function') on.call(body, 'error', nothing)
}

/** Ends a stream that nobody reads. A Readable must be destroyed: leaving its iterator before it began ends nothing. */
export function letGo(body: BodyStream): void {
  holdErrors(body)
  const { destroy, cancel } = Object(body) as { destroy?: unknown; cancel?: unknown } // it may not even be one
  if (typeof destroy === 'function') quietly(() => destroy.call(body))
  else if (typeof cancel === 'function') quietly(() => cancel.call(body))
  else quietly(() => body[Symbol.asyncIterator]().return?.())
}

/**
 * Iterates a body so that `return()` ends its source at once, also before the first piece and while one is awaited: the
 * iterators of a Readable and of a web stream end nothing then. A generator can only be left between two pieces.
 */
export function piecesOf(body: BodyStream): AsyncIterator<string | Uint8Array> {
  const { destroy, getReader } = body as { destroy?: unknown; getReader?: unknown }
  if (typeof getReader === 'function') return readerOf(getReader.call(body))
  const iterator = body[Symbol.asyncIterator]()
  if (typeof destroy !== 'function') return iterator
  return {
    next: () => iterator.next(),
    return() {
      destroy.call(body)
      return left()
    },
  }
}

function readerOf(reader: ReadableStreamDefaultReader<string | Uint8Array>): AsyncIterator<string | Uint8Array> {
  return {
    next: () => reader.read() as Promise<IteratorResult<string | Uint8Array, undefined>>,
    return: () => reader.cancel().then(left),
  }
}

async function left(): Promise<IteratorReturnResult<undefined>> {
  return { done: true, value: undefined }
}

/** The rest of a body is not wanted. */
export function giveUp(iterator: AsyncIterator<unknown> | null): void {
  if (iterator !== null) quietly(() => iterator.return?.())
}

/** A source may clean up in its own time: a promise, a value, or a throw are all allowed. */
export function quietly(leave: () => unknown): void {
  const left = async () => void (await leave())
  left().catch(nothing) // an error from a stream that was given up concerns no one any more
}
