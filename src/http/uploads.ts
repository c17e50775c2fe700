// multipart/form-data (RFC 7578) to files, as it arrives: the disk slows the client down, everything is bounded, and
// files that were not moved are removed. Parsed by @fastify/busboy, an optional peer dependency loaded on first use.

import { createWriteStream, type WriteStream } from 'node:fs'
import { copyFile, rename, unlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { BusboyConstructor, BusboyFileStream, BusboyInstance } from '@fastify/busboy'
import type { UploadedFile, UploadForm, UploadSettings } from '../../protocols/http/settings.ts'
import { codeOf, messageOf, ProtocolError, SystemError, UsageError } from '../errors.ts'
import { log } from '../log.ts'
import { nothing } from '../nothing.ts'
import { Delimiters, MAX_HEADER_BYTES } from './delimiters.ts'
import { isLeftBehind, newFileName } from './owners.ts'
import { ignoreMissing, privateDirectory, sweep } from './private-directory.ts'

/** A file of a form, in our folder until it is moved. */
class FormFile implements UploadedFile {
  readonly fieldName: string
  readonly name: string
  readonly type: string
  readonly path: string
  size = 0
  #isMoved = false

  constructor(fieldName: string, name: string, type: string, path: string) {
    this.fieldName = fieldName
    this.name = name.replace(/^.*[/\\]/s, '')
    this.type = type
    this.path = path
  }

  async move(to: string): Promise<void> {
    try {
      await rename(this.path, to)
    } catch (error) {
      if (codeOf(error) !== 'EXDEV') throw error
      await copyFile(this.path, to)
      await unlink(this.path)
    }
    this.#isMoved = true
  }

  async remove(): Promise<void> {
    if (!this.#isMoved) await unlink(this.path).catch(ignoreMissing)
  }
}

/** Limit of a field's name, in bytes. */
const MAX_NAME_BYTES = 255
/**
 * As many header lines as fit into the limit of a part's head. The parser would drop further lines, and with them the
 * name of a part.
 */
const MAX_HEADERS = MAX_HEADER_BYTES / 4

/**
 * Reads a body to its end. Rejects with a ProtocolError for the client's faults (400, 413), and then leaves no file
 * behind.
 */
export async function readUploads(
  body: AsyncIterable<Uint8Array>,
  contentType: string,
  limits: UploadSettings,
): Promise<UploadForm> {
  const { Busboy } = await load()
  const directory = await folder(limits.directory)
  const { maxFiles = 100, maxFields = 1000, maxFileBytes = 104_857_600 } = limits
  const { maxFieldBytes = 1_048_576, maxFieldsBytes = 10_485_760 } = limits
  const bounds = {
    fieldSize: Math.min(maxFieldBytes, maxFieldsBytes), // the parser collects a field before it tells of it
    fields: maxFields,
    fileSize: maxFileBytes,
    files: maxFiles,
  }
  let parser: BusboyInstance
  try {
    parser = new Busboy({
      headers: { 'content-type': contentType },
      // As in PHP and in fetch's `formData()`: by default the parser takes unnamed bytes for a file, too.
      isPartAFile: (_field, _type, fileName) => fileName !== undefined,
      limits: { ...bounds, headerPairs: MAX_HEADERS, headerSize: MAX_HEADER_BYTES, parts: maxFiles + maxFields },
    })
  } catch (cause) {
    throw badForm('a multipart body without a usable boundary', cause)
  }
  const upload = new Upload(directory, parser, Delimiters.of(contentType), maxFieldsBytes)
  return upload.read(body)
}

/** One body on its way to files. */
class Upload {
  readonly #directory: string
  readonly #parser: BusboyInstance
  readonly #delimiters: Delimiters | null
  /** Bytes that may still come in fields. */
  #fieldBytesLeft: number
  readonly #fields: [string, string][] = []
  readonly #files: FormFile[] = []
  readonly #streams: Readable[] = []
  readonly #writing: Promise<void>[] = []
  /** How many parts the parser has reported. */
  #reported = 0
  #failure: Error | null = null
  /** Ends a wait for the parser, which may never end by itself: it waits for a file that has failed. */
  #giveUp: (error: Error) => void = nothing // nobody waits yet

  constructor(directory: string, parser: BusboyInstance, delimiters: Delimiters | null, maxFieldsBytes: number) {
    this.#directory = directory
    this.#delimiters = delimiters
    this.#fieldBytesLeft = maxFieldsBytes
    this.#parser = parser
    parser.on('field', (name, value, _isNameCut, isCut) => this.#addField(name, value, isCut))
    parser.on('file', (field, stream, name, _encoding, type) => this.#addFile(field, stream, name, type))
    for (const limit of ['partsLimit', 'filesLimit', 'fieldsLimit'] as const)
      parser.on(limit, () => this.#fail(tooMuch('a form of too many parts')))
  }

  async read(body: AsyncIterable<Uint8Array>): Promise<UploadForm> {
    try {
      await this.#feed(body)
      await Promise.all(this.#writing)
      if (this.#failure !== null) throw this.#failure
    } catch (error) {
      this.#parser.destroy()
      const reason = this.#failure ?? (error as Error) // pipeline() does not always notice an end without one
      for (const stream of this.#streams) stream.destroy(reason) // the parser leaves its current one open
      await Promise.allSettled(this.#writing)
      await this.#dispose()
      throw told(this.#failure ?? error)
    }
    return { fields: this.#fields, files: this.#files, dispose: () => this.#dispose() }
  }

  /** Waits for the disk after each piece. */
  async #feed(body: AsyncIterable<Uint8Array>): Promise<void> {
    const parser = this.#parser
    const finished = new Promise<void>((resolve, reject) => {
      parser.once('finish', resolve).once('error', reject)
    })
    finished.catch(nothing) // awaited below, unless writing to it fails first
    for await (const bytes of body) {
      this.#delimiters?.check(bytes)
      await this.#unlessFailed((resolve, reject) => {
        parser.write(bytes, (error) => (error ? reject(error) : resolve()))
      })
    }
    parser.end()
    await this.#unlessFailed((resolve, reject) => void finished.then(resolve, reject))
    if (this.#delimiters !== null && this.#delimiters.parts !== this.#reported)
      this.#fail(badForm('a part of a form has no name, or a head that is none'))
  }

  #unlessFailed(begin: (resolve: () => void, reject: (error: unknown) => void) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) return reject(this.#failure)
      this.#giveUp = reject
      begin(resolve, reject)
    })
  }

  #addField(name: string | undefined, value: string, isCut: boolean): void {
    this.#reported++
    if (isCut) return this.#fail(tooMuch('a field of a form is too long'))
    if (!this.#isName(name)) return
    this.#fieldBytesLeft -= Buffer.byteLength(name) + Buffer.byteLength(value)
    if (this.#fieldBytesLeft < 0) this.#fail(tooMuch('the fields of a form are too long together'))
    else this.#fields.push([name, value])
  }

  /** A part must have a name (RFC 7578 section 4.2), and the parser does not limit its length. */
  #isName(name: string | undefined): name is string {
    if (name === undefined) this.#fail(badForm('a part of a form has no name'))
    else if (Buffer.byteLength(name) > MAX_NAME_BYTES) this.#fail(tooMuch('the name of a field is too long'))
    else return true
    return false
  }

  #addFile(field: string | undefined, stream: BusboyFileStream, name: string, type: string): void {
    this.#reported++
    stream.on('error', nothing) // the code that stores it handles the error
    this.#streams.push(stream)
    if (!this.#isName(field)) return
    const path = join(this.#directory, newFileName())
    const file = new FormFile(field, name ?? '', type, path)
    this.#files.push(file)
    stream.once('limit', () => this.#fail(tooMuch('a file of a form is too large')))
    const stored = this.#store(stream, file)
    this.#writing.push((name ?? '') === '' ? stored.then(() => this.#dropUnchosen(file)) : stored)
  }

  /** An input in which nothing was chosen is sent as a file without a name and without a byte, but is none. */
  async #dropUnchosen(file: FormFile): Promise<void> {
    if (file.size > 0) return
    this.#files.splice(this.#files.indexOf(file), 1)
    await file.remove()
  }

  async #store(stream: Readable, file: FormFile): Promise<void> {
    const target = createWriteStream(file.path, { flags: 'wx', mode: 0o600 })
    target.on('error', nothing) // the pipeline reports it
    try {
      await pipeline(stream, target)
    } catch (error) {
      this.#fail(error as Error)
      await closed(target)
    }
    file.size = target.bytesWritten
  }

  #fail(error: Error): void {
    this.#failure ??= error
    this.#giveUp(this.#failure)
  }

  async #dispose(): Promise<void> {
    await Promise.all(this.#files.map((file) => file.remove()))
  }
}

/** A file that is still being made is there only then, and could not be removed before. */
function closed(target: WriteStream): Promise<void> {
  return new Promise((resolve) => (target.closed ? resolve() : target.once('close', resolve)))
}

/** Attributes an error: to the client, the user's code or the machine. */
function told(error: unknown): unknown {
  if (error instanceof ProtocolError || error instanceof UsageError) return error
  const code = codeOf(error)
  if (/^E[A-Z]+$/.test(code)) return new SystemError(code, 'write', 'an upload', { cause: error })
  if (error instanceof Error && error.name === 'AbortError') return error
  return badForm('a multipart body that is none', error)
}

function badForm(message: string, cause?: unknown): ProtocolError {
  return new ProtocolError('ERR_BAD_MULTIPART', message, { statusHint: 400, cause })
}

function tooMuch(message: string): ProtocolError {
  return new ProtocolError('ERR_FORM_TOO_LARGE', message, { statusHint: 413 })
}

async function load(): Promise<{ readonly Busboy: BusboyConstructor }> {
  try {
    return await import('@fastify/busboy')
  } catch (cause) {
    throw new UsageError('ERR_NO_BUSBOY', 'uploads need a parser: npm install @fastify/busboy', { cause })
  }
}

let swept = ''

/** The upload folder. What processes that are gone have left there is removed meanwhile: no upload waits for that. */
async function folder(given = join(tmpdir(), `millrace-uploads-${process.geteuid?.() ?? ''}`)): Promise<string> {
  const directory = await privateDirectory(given)
  if (swept !== directory) {
    swept = directory
    sweep(directory, (name) => isLeftBehind(join(directory, name))).catch((error) =>
      log(`uploads in ${directory} cannot be swept: ${messageOf(error)}`),
    )
  }
  return directory
}
