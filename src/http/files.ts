// Files as answers: type, length, validators, conditions (RFC 9110 section 13), ranges (section 14); read at the pace
// of the client. `staticFiles` serves a folder to untrusted clients: a path is decoded once, and nothing outside the
// folder can be reached.

import { constants, type Stats } from 'node:fs'
import { type FileHandle, open, realpath, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { FileBody } from '../../protocols/http/response.ts'
import type { AnswerParts, FileFields, FileRequest } from '../../protocols/http/settings.ts'
import { crypto } from '../builtins.ts'
import { codeOf, isNoFile, SystemError, UsageError } from '../errors.ts'
import { ANY_STRING, check, checkOptions, integerFrom, type Rule, TRUE_OR_FALSE } from '../options.ts'
import { parseHttpDate } from './date.ts'
import { mimeType, UNKNOWN_TYPE } from './mime-types.ts'
import { contentRange, type Range, type Ranges, rangesOf } from './ranges.ts'
import { isBelow, isOpenBelow } from './whereabouts.ts'

/** An answer made of a file. It holds a descriptor: read the body to its end, or call `close`. */
export interface FileAnswer extends AnswerParts {
  /** Closes the descriptor; idempotent. */
  close(): Promise<void>
}

/** A file changed more recently than this may change again without a new date, so it gets no strong validator yet. */
const SETTLED_AFTER_MS = 2000

/** Bytes per read: as much as a socket takes at once. */
const READ = 65_536

/**
 * Opens a file and decides what `request` gets: 200, 206, 304, 412 or 416. Rejects with a SystemError (EISDIR for a
 * folder, ENOENT for anything else but a regular file). `about`: what is said of the file in place of what it says
 * itself; such as the media type inside the content coding in `more`, where the file's name suggests another.
 */
export async function openFile(
  part: Pick<FileBody, 'path'> & Partial<FileBody>,
  request: FileRequest,
  about: FileFields = {},
  more: FileAnswer['headers'] = [],
): Promise<FileAnswer> {
  return answerFrom(await opened(part.path), part, request, about, more)
}

/** Owns the file: it is closed with the answer, or if there is none. */
async function answerFrom(
  file: FileHandle,
  { path, offset = 0, length = 0 }: Pick<FileBody, 'path'> & Partial<FileBody>,
  request: FileRequest,
  about: FileFields,
  more: FileAnswer['headers'],
): Promise<FileAnswer> {
  try {
    const stats = await file.stat()
    if (!stats.isFile()) throw new SystemError(stats.isDirectory() ? 'EISDIR' : 'ENOENT', 'open', path)
    const start = Math.min(offset, stats.size)
    const size = length > 0 ? Math.min(length, stats.size - start) : stats.size - start
    const own = { type: mimeType(path), ...about }
    return answer(new Served(file, stats, start, size, own, more), request)
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Opens without blocking: a FIFO would wait for its writer. */
async function opened(path: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (cause) {
    throw new SystemError(codeOf(cause), 'open', path, { cause })
  }
}

/** An open file, or the part of it that is served as if it were the whole. */
class Served {
  readonly file: FileHandle
  readonly start: number
  readonly size: number
  readonly type: string
  readonly etag: string
  /** To the second, and never ahead of the clock (RFC 9110 section 8.8.2.1). */
  readonly modified: number
  /** Whether its validators are strong: equal validators mean equal bytes. */
  readonly isSettled: boolean
  readonly common: FileAnswer['headers']

  constructor(
    file: FileHandle,
    stats: Stats,
    start: number,
    size: number,
    { type, etag, lastModified }: FileFields & { readonly type: string },
    more: FileAnswer['headers'],
  ) {
    this.file = file
    this.start = start
    this.size = size
    this.type = type
    const now = Date.now()
    const told = parseHttpDate(lastModified ?? '')
    this.modified = Number.isNaN(told) ? Math.floor(Math.min(stats.mtimeMs, now) / 1000) * 1000 : told
    this.isSettled = now - stats.mtimeMs > SETTLED_AFTER_MS
    const part = size === stats.size ? '' : `-${start.toString(36)}-${size.toString(36)}`
    const tag = `"${stats.size.toString(36)}-${Math.round(stats.mtimeMs * 1000).toString(36)}${part}"`
    this.etag = etag ?? (this.isSettled ? tag : `W/${tag}`)
    this.common = [
      ['Last-Modified', lastModified ?? new Date(this.modified).toUTCString()],
      ['ETag', this.etag],
      ['Accept-Ranges', 'bytes'],
      ...more,
    ]
  }

  async close(): Promise<void> {
    await this.file.close()
  }

  /** Reads a range, then closes the file. A file that has shrunk meanwhile is an error: the answer breaks off. */
  async *read({ first, last }: Range): AsyncGenerator<Buffer> {
    for (let at = this.start + first, end = this.start + last + 1; at < end; ) {
      const wanted = Math.min(READ, end - at)
      const { bytesRead, buffer } = await this.file.read(Buffer.allocUnsafe(wanted), 0, wanted, at)
      if (bytesRead === 0) throw new SystemError('EIO', 'read', 'a file that has shrunk')
      at += bytesRead
      yield buffer.subarray(0, bytesRead)
    }
  }
}

async function answer(served: Served, request: FileRequest): Promise<FileAnswer> {
  const status = preconditions(served, request)
  if (status !== 200) return bodiless(served, status)
  const ranges =
    request.method === 'GET' && mayRange(served, request) ? rangesOf(request.header('range'), served.size) : null
  if (ranges === 'unsatisfiable') return bodiless(served, 416, [['Content-Range', `bytes */${served.size}`]])
  return ranges === null ? whole(served) : ranged(served, ranges)
}

/** RFC 9110 section 13.2.2, in its order. */
function preconditions({ etag, modified }: Served, request: FileRequest): number {
  const { method } = request
  const match = request.header('if-match')
  if (match !== undefined) {
    if (match.trim() !== '*' && !tagsOf(match).some((one) => isStrongly(one, etag))) return 412
  } else if (modified > dateIn(request, 'if-unmodified-since')) return 412
  const noneMatch = request.header('if-none-match')
  const isReading = method === 'GET' || method === 'HEAD'
  if (noneMatch !== undefined) {
    if (noneMatch.trim() === '*' || tagsOf(noneMatch).some((one) => weakly(one) === weakly(etag)))
      return isReading ? 304 : 412
    return 200
  }
  const modifiedSince = dateIn(request, 'if-modified-since')
  return isReading && modified <= modifiedSince && modifiedSince <= Date.now() ? 304 : 200
}

/** NaN, which is neither before nor after anything, if the field is missing or is not a date. */
function dateIn(request: FileRequest, name: string): number {
  return parseHttpDate(request.header(name) ?? '')
}

/** Tags of a list (RFC 9110 section 8.8.3): in quotes a comma is part of one. Those without quotes are taken, too. */
function tagsOf(list: string): string[] {
  return list.match(/(?:W\/)?"[^"]*"|[^\s,]+/g) ?? []
}

/** RFC 9110 section 8.8.3.2. */
function isStrongly(one: string, etag: string): boolean {
  return one.trim() === etag && !etag.startsWith('W/')
}

function weakly(etag: string): string {
  return etag.trim().replace(/^W\//, '')
}

async function bodiless(served: Served, status: number, more: FileAnswer['headers'] = []): Promise<FileAnswer> {
  await served.close()
  const isRefused = status >= 400 // with a lifetime, caches would give the refusal to others (RFC 9111 section 3)
  const common = isRefused ? served.common.filter(([name]) => name !== 'Cache-Control') : served.common
  const headers = [...common, ...more]
  return { status, headers, type: served.type, size: 0, body: null, close: async () => undefined }
}

function whole(served: Served): FileAnswer {
  return built(served, 200, served.size, [['Content-Type', served.type]], () =>
    served.read({ first: 0, last: served.size - 1 }),
  )
}

function ranged(served: Served, ranges: Ranges): FileAnswer {
  const [only] = ranges
  if (only !== undefined && ranges.length === 1) {
    const headers = [
      ['Content-Type', served.type],
      ['Content-Range', contentRange(only, served.size)],
    ] as const
    return built(served, 206, only.last - only.first + 1, headers, () => served.read(only))
  }
  const boundary = crypto().randomBytes(18).toString('base64url')
  const heads = ranges.map((range) =>
    Buffer.from(
      `\r\n--${boundary}\r\nContent-Type: ${served.type}\r\nContent-Range: ${contentRange(range, served.size)}\r\n\r\n`,
    ),
  )
  const end = Buffer.from(`\r\n--${boundary}--\r\n`)
  const sizes = ranges.map(({ first, last }, index) => last - first + 1 + (heads[index] as Buffer).length)
  const size = sizes.reduce((sum, one) => sum + one, end.length)
  return built(served, 206, size, [['Content-Type', `multipart/byteranges; boundary=${boundary}`]], async function* () {
    for (const [index, range] of ranges.entries()) {
      yield heads[index] as Buffer
      yield* served.read(range)
    }
    yield end
  })
}

function built(
  served: Served,
  status: number,
  size: number,
  headers: FileAnswer['headers'],
  read: () => AsyncGenerator<Buffer>,
): FileAnswer {
  return {
    status,
    headers: [...headers, ...served.common],
    size,
    body: new ClosingBody(served, read()),
    close: () => served.close(),
  }
}

/** Closes its file however reading ends, even if it never began. */
class ClosingBody implements AsyncIterable<Buffer>, AsyncIterator<Buffer> {
  readonly #served: Served
  readonly #bytes: AsyncGenerator<Buffer>

  constructor(served: Served, bytes: AsyncGenerator<Buffer>) {
    this.#served = served
    this.#bytes = bytes
  }

  [Symbol.asyncIterator](): AsyncIterator<Buffer> {
    return this
  }

  async next(): Promise<IteratorResult<Buffer>> {
    try {
      const result = await this.#bytes.next()
      if (result.done === true) await this.#served.close()
      return result
    } catch (error) {
      await this.#served.close()
      throw error
    }
  }

  async return(): Promise<IteratorResult<Buffer>> {
    await this.#bytes.return(undefined)
    await this.#served.close()
    return { done: true, value: undefined }
  }
}

/**
 * Whether there is no If-Range, or its condition holds. A weak validator never matches there (RFC 9110 section 13.1.5).
 */
function mayRange({ etag, modified, isSettled }: Served, request: FileRequest): boolean {
  const condition = request.header('if-range')
  if (condition === undefined) return true
  return isStrongly(condition, etag) || (isSettled && parseHttpDate(condition) === modified)
}

/** What `staticFiles` takes. Wrong ones are ERR_UNKNOWN_OPTION and ERR_BAD_OPTION. */
export interface StaticOptions {
  /** File that stands for a folder. Default: `index.html`; empty for none. */
  readonly index?: string
  /** Seconds for `Cache-Control: public, max-age`. Default: no such field. */
  readonly maxAge?: number
  /** Whether a file of a given name never changes (a hash is part of the name). Default: false. */
  readonly immutable?: boolean
  /** Whether to serve names that begin with a dot. Default: false. */
  readonly dotfiles?: boolean
  /** Whether to follow links that lead out of the folder. Default: false. */
  readonly followLinks?: boolean
  /** Whether to send `name.br` or `name.gz` beside a file to clients that accept them. Default: false. */
  readonly precompressed?: boolean
}

const STATIC_RULES = {
  index: ANY_STRING,
  maxAge: integerFrom(0),
  immutable: TRUE_OR_FALSE,
  dotfiles: TRUE_OR_FALSE,
  followLinks: TRUE_OR_FALSE,
  precompressed: TRUE_OR_FALSE,
} satisfies Record<keyof StaticOptions, Rule>

/** A request to a folder: `path` is as sent, not decoded. */
export interface StaticRequest extends FileRequest {
  /** As sent, not decoded. */
  readonly path: string
  /** Kept when a folder's path is redirected to one that ends in a slash. */
  readonly queryString?: string
  /** Returns which of these content codings the client prefers, if any. */
  codingFor(codings: readonly string[]): string | null
}

/**
 * Serves the files below a folder: `connection.send((await files(request)) ?? new Response(404))`. Resolves with null
 * if there is no such file, or the method is neither GET nor HEAD. `root` is looked at with each request: it may be
 * made until the first, and a link may be turned to another folder. Rejects with UsageError (ERR_BAD_ROOT) while it is
 * not a folder.
 */
export function staticFiles(
  root: string,
  options: StaticOptions = {},
): (request: StaticRequest) => Promise<FileAnswer | null> {
  check('the folder of staticFiles()', root, ANY_STRING)
  checkOptions('staticFiles()', options, STATIC_RULES)
  const { index = 'index.html', precompressed = false, followLinks = false } = options
  const cache = cacheHeaders(options)
  const folderNow = folderOf(root)
  return async (request) => {
    if (request.method !== 'GET' && request.method !== 'HEAD') return null
    const name = decodedPath(request.path, options.dotfiles === true)
    if (name === null) return null
    const folder = await folderNow()
    const find: Find = (wanted) => found(folder, wanted, followLinks)
    const serve = (place: Place) =>
      precompressed ? encoded(place, request, find, cache) : openPlace(place, request, { type: typeOf(place) }, cache)
    const place = await find(join(folder, name))
    const answer = place === null ? null : await serve(place).catch(folderOrMissing)
    if (answer !== FOLDER) return answer
    if (!name.endsWith('/')) return redirect(request)
    const page = index === '' ? null : await find(join(folder, name, index))
    return page === null ? null : serve(page).catch(missing)
  }
}

/** Where it is at each request: it may be a link that a deployment turns to the next release. */
function folderOf(root: string): () => Promise<string> {
  let known = ''
  return async () => {
    try {
      const path = await realpath(root)
      if (path !== known && !(await stat(path)).isDirectory()) throw new SystemError('ENOTDIR', 'open', root)
      known = path
      return path
    } catch (cause) {
      throw new UsageError('ERR_BAD_ROOT', `staticFiles: ${root} is no folder`, { cause })
    }
  }
}

const FOLDER = Symbol('a folder')

function folderOrMissing(error: unknown): typeof FOLDER | null {
  return codeOf(error) === 'EISDIR' ? FOLDER : missing(error)
}

/** `Cache-Control`, or nothing. */
function cacheHeaders({ maxAge, immutable = false }: StaticOptions): FileAnswer['headers'] {
  return maxAge === undefined ? [] : [['Cache-Control', `public, max-age=${maxAge}${immutable ? ', immutable' : ''}`]]
}

/** Decodes once. Null for anything that could lead elsewhere: NUL, backslash, an encoded slash, dots, hidden names. */
function decodedPath(path: string, isHiddenSeen: boolean): string | null {
  if (!path.startsWith('/') || /%(?:00|2f|5c)|\\/i.test(path)) return null
  let name: string
  try {
    name = decodeURIComponent(path)
  } catch {
    return null // URIError: not UTF-8
  }
  const parts = name.split('/')
  const isBad = parts.some((part) => part === '.' || part === '..' || (part.startsWith('.') && !isHiddenSeen))
  return isBad || name.includes('\0') || name.includes('//') ? null : name
}

/** A file that was found. */
interface Place {
  /** Where it is. */
  readonly path: string
  /** By which path it was asked for, which may be a link to it. */
  readonly wanted: string
  /** The folder that it must be in; null if it may be anywhere. */
  readonly folder: string | null
}

/** Resolves a path to its file, following links. Null if that is not below the folder. */
type Find = (wanted: string) => Promise<Place | null>

/** A link has the type of its own name, if that tells: what it leads to may be called `objects/ab12`. */
function typeOf({ path, wanted }: Place): string {
  const type = mimeType(wanted)
  return type === UNKNOWN_TYPE ? mimeType(path) : type
}

async function found(folder: string, wanted: string, mayLeave: boolean): Promise<Place | null> {
  try {
    const path = await realpath(wanted)
    if (mayLeave) return { path, wanted, folder: null }
    return isBelow(folder, path) ? { path, wanted, folder } : null
  } catch (error) {
    return missing(error)
  }
}

/** Opens what was found, if it is still there: a part of its path may have become a link. */
async function openPlace(
  place: Place,
  request: StaticRequest,
  about: FileFields,
  more: FileAnswer['headers'],
): Promise<FileAnswer> {
  const { path, folder } = place
  const file = await opened(path)
  try {
    if (folder !== null && !(await isOpenBelow(folder, file, path))) throw new SystemError('ENOENT', 'open', path)
  } catch (error) {
    await file.close()
    throw error
  }
  return answerFrom(file, place, request, about, more)
}

/**
 * Serves a compressed file beside the file, which may be a link too; of a link, what lies beside that comes first. What
 * lies beside a folder is not its compressed form.
 */
async function encoded(
  place: Place,
  request: StaticRequest,
  find: Find,
  cache: FileAnswer['headers'],
): Promise<FileAnswer> {
  const { path, wanted } = place
  if ((await stat(path)).isDirectory()) throw new SystemError('EISDIR', 'open', path)
  const more = [...cache, ['Vary', 'Accept-Encoding'] as const]
  const about = { type: typeOf(place) }
  const left = new Map([
    ['br', '.br'],
    ['gzip', '.gz'],
  ])
  for (;;) {
    const coding = request.codingFor([...left.keys()])
    if (coding === null) return openPlace(place, request, about, more)
    const end = left.get(coding)
    const packed = (await find(wanted + end)) ?? (wanted === path ? null : await find(path + end))
    left.delete(coding)
    if (packed === null) continue
    const headers = [...more, ['Content-Encoding', coding] as const]
    const answer = await openPlace(packed, request, about, headers).catch(missing)
    if (answer !== null) return answer
  }
}

/** Null if there is no such file; other errors are the machine's fault and are thrown. */
function missing(error: unknown): null {
  if (isNoFile(error)) return null
  throw error
}

function redirect({ path, queryString = '' }: StaticRequest): FileAnswer {
  // A path that begins with two slashes would be another host.
  const location = `${path.replace(/^\/{2,}/, '/')}/${queryString === '' ? '' : `?${queryString}`}`
  const headers = [['Location', location]] as const
  return { status: 301, headers, size: 0, body: null, close: async () => undefined }
}
