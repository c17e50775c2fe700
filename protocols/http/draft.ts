// An answer as a handler gave it, made uniform: status, field lines and a body, before its head is written.

import { isChunk } from '../../src/encoded.ts'
import { UsageError } from '../../src/errors.ts'
import { hasToken } from './fields.ts'
import { letGo, quietly } from './release.ts'
import { type BodyStream, checkField, type Response } from './response.ts'
import type { AnswerParts } from './settings.ts'

/** An answer, before its head is written. */
export interface Draft {
  readonly status: number
  readonly reason: string
  /** Field lines, each with its CR LF. */
  lines: string
  body: string | Uint8Array | BodyStream | null
  /** Bytes of a stream if known, else -1. */
  size: number
  /** More follows with later sends. */
  readonly isOpen: boolean
  type: string
  isClosing: boolean
  /** What else `Connection` says: the names of fields that are among the lines. */
  readonly options: string
  /** Whether the lines include a Date. */
  readonly hasDate: boolean
  /** Releases what the answer holds besides its body. */
  readonly close: (() => unknown) | null
}

export const HTML = 'text/html; charset=utf-8'
/** Header fields that only an exchange may set. */
const OURS = new Set(['content-length', 'connection', 'transfer-encoding', 'keep-alive'])

/** Bytes below which gzip does not pay. */
const MIN_COMPRESSED = 1024

/** `size`: of a stream, as a draft has it. */
export function isSmall(body: string | Uint8Array | BodyStream, size: number): boolean {
  const bytes = isChunk(body) ? Buffer.byteLength(body) : size
  return bytes >= 0 && bytes < MIN_COMPRESSED
}

export function draftOf(body: string | Uint8Array, type: string, status = 200): Draft {
  const lines = `Content-Type: ${type}\r\n`
  return {
    status,
    reason: '',
    lines,
    body,
    size: -1,
    isOpen: false,
    type,
    isClosing: false,
    options: '',
    hasDate: false,
    close: null,
  }
}

/** `but`: names of fields that the handler has set itself. */
export function ofParts(parts: AnswerParts, but?: ReadonlyMap<string, unknown>): Draft {
  const { status, reason = '', headers, size, body } = parts
  let lines = ''
  let { type = '' } = parts
  let hasDate = false
  let told = ''
  let hasUpgrade = false
  for (const [name, value] of headers) {
    const key = name.toLowerCase()
    if (key === 'upgrade') hasUpgrade = true
    if (key === 'connection') told += `,${value.toLowerCase()}`
    if (OURS.has(key) || but?.has(key) === true) continue
    checkField(name, [value])
    if (key === 'content-type') type = value
    if (key === 'date') hasDate = true
    lines += `${name}: ${value}\r\n`
  }
  const isPlain = told === '' && !hasUpgrade
  const names = isPlain ? NO_NAMES : new Set(headers.map(([name]) => name.toLowerCase()))
  const { isClosing, options } = connectionOf(told, names)
  const close = () => parts.close()
  return { status, reason, lines, body, size, isOpen: false, type, isClosing, options, hasDate, close }
}

/**
 * What a Connection field, given in lower case, may say: names of fields that are sent (RFC 9110 section 7.6.1).
 * Upgrade must be among them if it is sent (section 7.8).
 */
function connectionOf(told: string, fields: { has(name: string): boolean }): Pick<Draft, 'isClosing' | 'options'> {
  const hasUpgrade = fields.has('upgrade')
  if (told === '' && !hasUpgrade) return SILENT
  const names = told.split(',').map((name) => name.trim())
  const sent = names.filter((name) => name !== 'upgrade' && !OURS.has(name) && fields.has(name))
  return { isClosing: hasToken(told, 'close'), options: (hasUpgrade ? [...sent, 'upgrade'] : sent).join(', ') }
}

/** Of an answer that says nothing of its connection, as most do. */
const SILENT = { isClosing: false, options: '' }
const NO_NAMES: ReadonlySet<string> = new Set()

/** The lines of header fields, and what they say of the connection and the body. */
export function ofFields(
  fields: Response['fields'],
): Pick<Draft, 'lines' | 'type' | 'hasDate' | 'isClosing' | 'options'> {
  let lines = ''
  let type = ''
  let hasDate = false
  let told = ''
  for (const [key, { name, values }] of fields) {
    if (key === 'connection') told = values.join(',').toLowerCase()
    if (key === 'content-type') type = values.join(', ')
    if (key === 'date') hasDate = true
    if (!OURS.has(key)) for (const value of values) lines += `${name}: ${value}\r\n`
  }
  return { lines, type, hasDate, ...connectionOf(told, fields) }
}

export function ofResponse(response: Response): Draft {
  const { status, reason, fields, body } = response
  const { hasDate, isClosing, options, ...rest } = ofFields(fields)
  let { lines, type } = rest
  const isOpen = (body === null || isChunk(body)) && staysOpen(fields, type, body)
  const size = sizeGiven(fields.get('content-length')?.values)
  if (type === '' && body !== null && body !== '') {
    type = typeof body === 'string' ? HTML : 'application/octet-stream'
    lines += `Content-Type: ${type}\r\n`
  }
  return { status, reason, lines, body, size, isOpen, type, isClosing, options, hasDate, close: null }
}

/** Whether `body` is only the first piece. One of events with a length is whole: a recording, say. */
function staysOpen(fields: Response['fields'], type: string, body: string | Uint8Array | null): boolean {
  if (fields.has('transfer-encoding')) return true
  return type.startsWith('text/event-stream') && (body === null || !fields.has('content-length'))
}

function sizeGiven(values: readonly string[] | undefined): number {
  if (values === undefined) return -1
  if (values.length === 1 && /^\d{1,15}$/.test(values[0] as string)) return Number(values[0])
  throw new UsageError('ERR_BAD_RESPONSE', `Content-Length is a number of bytes, not '${values.join(', ')}'`)
}

/** Length of the body in bytes; -1 if it is known only at its end. Throws UsageError. */
export function lengthOf({ body, size, isOpen }: Draft, hasBody: boolean): number {
  if (body !== null && !isChunk(body)) {
    if (typeof Object(body)[Symbol.asyncIterator] === 'function') return size
    throw new UsageError('ERR_BAD_RESPONSE', 'a body is text, bytes, or a stream of them')
  }
  if (isOpen) return -1
  const length = body === null ? 0 : Buffer.byteLength(body)
  if (size >= 0 && size !== length && hasBody)
    throw new UsageError('ERR_BAD_RESPONSE', `Content-Length says ${size}, the body has ${length} bytes`)
  return length
}

/** A stream does not give as many bytes as its head has said, or would have without a coding. */
export function wrongLength(length: number, how: 'longer' | 'shorter'): UsageError {
  return new UsageError('ERR_BAD_RESPONSE', `a body is ${how} than its Content-Length of ${length}`)
}

/** The bytes depend on the coding, so a strong validator would be wrong. */
export function weakened(lines: string): string {
  return lines.replace(/^(ETag: )(")/im, '$1W/$2')
}

/** Whether field lines say that other codings get other bytes (RFC 9110 section 12.5.5). */
export function variesByCoding(lines: string): boolean {
  return /^vary:(?:.*,)?[ \t]*(?:accept-encoding|\*)[ \t]*[,\r]/im.test(lines)
}

export function discard({ body, close }: Draft): void {
  if (body !== null && !isChunk(body)) letGo(body)
  if (close !== null) quietly(close)
}
