// From what a handler sends to a draft of the answer: text, bytes, JSON, a Response with or without a file, or the
// error that says why it is none.

import { foreignBytes, jsonOf } from '../../src/encoded.ts'
import { isNoFile, UsageError } from '../../src/errors.ts'
import { isThenable } from '../../src/thenable.ts'
import { type Draft, draftOf, HTML, ofFields, ofParts, ofResponse } from './draft.ts'
import type { Answer } from './exchange.ts'
import { isParts, isStream } from './release.ts'
import { Chunk, Response, ServerSentEvents } from './response.ts'
import type { AnswerParts, FileFields, FileRequest, HttpServices } from './settings.ts'

/** Throws UsageError: ERR_NO_ANSWER, ERR_BAD_RESPONSE. */
export function draftOfAnswer(message: Answer): Draft {
  if (typeof message === 'string') return draftOf(message, HTML)
  if (message instanceof Uint8Array) return draftOf(message, 'application/octet-stream')
  if (message instanceof Response) return ofResponse(message)
  if (message instanceof Chunk || message instanceof ServerSentEvents)
    throw new UsageError('ERR_NO_ANSWER', 'a piece of an answer comes after a Response that is open')
  if (isParts(message)) return ofParts(message)
  if (Object.prototype.toString.call(message) === '[object Response]')
    throw new UsageError('ERR_BAD_RESPONSE', `that is the Response of fetch: import { Response } from 'millrace'`)
  const bytes = message instanceof ArrayBuffer ? new Uint8Array(message) : foreignBytes(message)
  if (bytes !== null) return draftOf(bytes, 'application/octet-stream')
  const mistake = mistakeIn(message)
  if (mistake !== null) throw new UsageError('ERR_BAD_RESPONSE', mistake)
  return draftOf(jsonOf(message), 'application/json')
}

/** For a Response whose body is a file; 404 if there is none. */
export async function draftOfFile(
  response: Response,
  request: FileRequest,
  openFile: HttpServices['openFile'],
): Promise<Draft> {
  const { status, reason } = response
  const fields = new Map(response.fields) // now: while the file is opened it may be changed, and sent to somebody else
  let parts: AnswerParts
  try {
    const file = response.file as NonNullable<Response['file']>
    parts = await openFile(file, status === 200 ? request : unconditional(request.method), aboutFile(response))
  } catch (error) {
    if (!isNoFile(error)) throw error
    return draftOf('404 Not Found\n', 'text/plain; charset=utf-8', 404)
  }
  const isOwn = parts.status === 200
  keepBeside(fields, parts.status)
  const file = ofParts(parts, fields)
  const own = ofFields(fields)
  return {
    ...file,
    status: isOwn ? status : file.status,
    reason: isOwn ? reason : '',
    lines: own.lines + file.lines,
    isClosing: own.isClosing || file.isClosing,
    options: own.options,
    hasDate: own.hasDate || file.hasDate,
  }
}

/** Why a value is no answer, although there is JSON for it: an empty object. Null if it is one. */
function mistakeIn(message: unknown): string | null {
  if (isThenable(message)) return 'an answer is no promise: await it'
  if (message instanceof Blob)
    return 'an answer is no Blob: send its await arrayBuffer(), or a Response with its stream()'
  return isStream(message) ? 'an answer is no stream: send new Response(200, {}, stream)' : null
}

/** What a Response says of its file: instead of what the file itself has, but in its place. */
function aboutFile(response: Response): FileFields {
  const about: { -readonly [name in keyof FileFields]: string } = {}
  const [type, etag, lastModified] = FILE_FIELDS.map((name) => response.getHeader(name))
  if (type !== undefined) about.type = type
  if (etag !== undefined) about.etag = etag
  if (lastModified !== undefined) about.lastModified = lastModified
  return about
}

const FILE_FIELDS = ['content-type', 'etag', 'last-modified']
/** A refusal with a lifetime would be given to others by caches (RFC 9111 section 3). */
const LIFETIMES = ['cache-control', 'expires']

/** Leaves what else a Response says. */
function keepBeside(fields: Response['fields'], status: number): void {
  for (const name of FILE_FIELDS) fields.delete(name)
  if (status >= 400) for (const name of LIFETIMES) fields.delete(name)
}

/** An error page is sent whole, whatever conditions the request has. */
function unconditional(method: string): FileRequest {
  return { method, header: () => undefined }
}
