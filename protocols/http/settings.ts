// The settings of an HTTP server, with their defaults and the reasons for them, and what it needs from outside: a
// protocol has no disk and no wall clock, so files, uploads, sessions, dates and logs are provided as `HttpServices`.

import { defined, quoted, UsageError } from '../../src/errors.ts'
import {
  ANY_STRING,
  checkOptions,
  hasMethods,
  integerFrom,
  isFunction,
  isObject,
  LIST_OF_STRINGS,
  NOT_NEGATIVE,
  oneOf,
  POSITIVE,
  type Rule,
  rule,
  TRUE_OR_FALSE,
} from '../../src/options.ts'
import { checkProtocol } from '../../src/protocol/registry.ts'
import type { AnyProtocol } from '../../src/protocol.ts'
import { disown, isThenable } from '../../src/thenable.ts'
import { type AccessLog, type AccessLogEntry, dating } from './access-log.ts'
import { HEAD_LIMITS, type HeadLimits } from './head.ts'
import { QuickHeads } from './quick-head.ts'
import type { Request } from './request.ts'
import type { FileBody } from './response.ts'

/**
 * What `http({ ... })` takes. Throws UsageError for names that it does not know (ERR_UNKNOWN_OPTION) and for wrong
 * values (ERR_BAD_OPTION).
 */
export interface HttpSettings extends Partial<HeadLimits> {
  /**
   * `collect`: a request is delivered when all of its body has arrived, at most `maxPackageSize` bytes (413). `stream`:
   * it is delivered with its head, and the body is read by `for await (const bytes of request.body)`. A function
   * decides by the head. Default `collect`.
   */
  readonly body?: BodyMode | ((request: Request) => BodyMode)
  /** Bytes of a streamed body; more is answered with 413. Default: no limit; unread data waits at the client. */
  readonly maxBodyBytes?: number
  /** Stores `multipart/form-data` in files as it arrives, for `request.post()` and `request.file()`. Off by default. */
  readonly uploads?: UploadSettings | null
  /** Time from a request's first byte to the end of its head; then 408. Default 15,000; 0 is off. */
  readonly headerTimeoutMs?: number
  /** Longest silence within a body; then 408. Default 30,000; 0 is off. */
  readonly bodyTimeoutMs?: number
  /** Time from the end of the head to the end of the body; then 408. Default 300,000, as in Node; 0 is off. */
  readonly requestTimeoutMs?: number
  /**
   * Time between requests, from when an answer has left. Default 65,000: longer than the 60 s that load balancers keep
   * a connection. 0 is off.
   */
  readonly keepAliveTimeoutMs?: number
  /** How long a handler may take to begin its answer; then 503. Default 0, off: long polls are legitimate. */
  readonly answerTimeoutMs?: number
  /** How long a client may read nothing while an answer waits for it. Default 30,000; 0 is off. */
  readonly writeTimeoutMs?: number
  /**
   * Proxies whose `X-Forwarded-For`, `-Proto` and `-Host` are trusted: addresses and networks, or `unix`. Default none.
   * In a chain of proxies all three are treated alike: of several values the one from the outermost trusted proxy
   * counts, and a single value is taken as it is.
   */
  readonly trustProxy?: readonly string[]
  /** gzip and brotli for bodies worth it (text, JSON, SVG, from 1 KiB on), as the client accepts. Default false. */
  readonly compress?: boolean
  /**
   * Logs each answer, including those to malformed requests: Apache's combined format or JSON in the log, or a function
   * of your own. One that throws costs its connection; if it returns a promise, its rejection is told to `onError`, and
   * a drain waits for it. Default off.
   */
  readonly accessLog?: 'combined' | 'json' | ((entry: AccessLogEntry) => unknown) | null
  /** Needed for `request.session()`, also in handshakes of `websocket`. Off by default. */
  readonly sessions?: SessionSource | null
  /** Takes over requests that ask for WebSocket, on the same port. */
  readonly websocket?: AnyProtocol | null
}

const BODY_MODE = oneOf('collect', 'stream')

/** What a function for `body` has returned. Throws UsageError for anything else, such as a promise. */
export function checkedBodyMode(mode: unknown): BodyMode {
  if (BODY_MODE.isRight(mode)) return mode as BodyMode
  disown(mode)
  const name = isThenable(mode) ? 'a promise' : quoted(mode)
  throw new UsageError('ERR_BAD_OPTION', `body() of http() says 'collect' or 'stream', not ${name}`)
}

const LOG_FORMAT = oneOf('combined', 'json')

const RULES = {
  body: rule((value) => BODY_MODE.isRight(value) || isFunction(value), `'collect', 'stream' or a function`),
  maxBodyBytes: NOT_NEGATIVE,
  maxHeadBytes: POSITIVE,
  maxTargetBytes: POSITIVE,
  maxFields: POSITIVE,
  uploads: { isRight: (value) => value === null || isObject(value), advice: 'write uploads: {}' },
  headerTimeoutMs: NOT_NEGATIVE,
  bodyTimeoutMs: NOT_NEGATIVE,
  requestTimeoutMs: NOT_NEGATIVE,
  keepAliveTimeoutMs: NOT_NEGATIVE,
  answerTimeoutMs: NOT_NEGATIVE,
  writeTimeoutMs: NOT_NEGATIVE,
  trustProxy: LIST_OF_STRINGS,
  compress: TRUE_OR_FALSE,
  accessLog: rule(
    (value) => value === null || LOG_FORMAT.isRight(value) || isFunction(value),
    `'combined', 'json', a function or null`,
  ),
  sessions: {
    isRight: (value) => value === null || hasMethods(value, 'load', 'commit'),
    advice: 'write sessions: new Sessions(...)',
  },
  websocket: { isRight: (value) => value === null || isObject(value), advice: 'write websocket: websocket()' },
} satisfies Record<keyof HttpSettings, Rule>

const RULES_OF_UPLOADS = {
  directory: ANY_STRING,
  maxFiles: integerFrom(0),
  maxFields: integerFrom(0),
  maxFileBytes: NOT_NEGATIVE,
  maxFieldBytes: NOT_NEGATIVE,
  maxFieldsBytes: NOT_NEGATIVE,
} satisfies Record<keyof UploadSettings, Rule>

/** How the body of a request is delivered, see `HttpSettings.body`. */
export type BodyMode = 'collect' | 'stream'

/** Limits of an upload. */
export interface UploadSettings {
  /** Where files go until a handler moves them. Default: a folder of ours under the temporary directory. */
  readonly directory?: string
  /** Default 100. */
  readonly maxFiles?: number
  /** Default 1,000. */
  readonly maxFields?: number
  /** Bytes of one file. Default 104,857,600. */
  readonly maxFileBytes?: number
  /** Bytes of one field. Default 1,048,576. */
  readonly maxFieldBytes?: number
  /** Bytes of all fields and their names together: they are kept in memory. Default 10,485,760. */
  readonly maxFieldsBytes?: number
}

/**
 * A file that arrived as part of a form. Unless it was moved, it is removed when the request is over: its answer is
 * sent or its client gone, and the promise that its handler has returned has settled.
 */
export interface UploadedFile {
  /** The name of the form's field. */
  readonly fieldName: string
  /** The name given by the client, without folders. Do not use it as a path. */
  readonly name: string
  /** The type claimed by the client. */
  readonly type: string
  /** Bytes. */
  readonly size: number
  /** The file's place until it is moved or the request is over. */
  readonly path: string
  /** Moves the file, also to another disk; replaces a file that is there. Rejects with Node's error. */
  move(to: string): Promise<void>
}

export interface UploadForm {
  /** Names and values in the order received. */
  readonly fields: readonly (readonly [string, string])[]
  readonly files: readonly UploadedFile[]
  /** Removes files that were not moved. */
  dispose(): Promise<void>
}

/** What a file, or anything else that comes with its own head, answers with. */
export interface AnswerParts {
  /** Status of the answer. */
  readonly status: number
  /** By default the usual one of the status. */
  readonly reason?: string
  /** Names and values, in their order. */
  readonly headers: readonly (readonly [string, string])[]
  /** The type of the content that a 304 stands for: a 304 has no field for it. */
  readonly type?: string
  /** Bytes of the body; -1 if unknown. */
  readonly size: number
  /** Null for none. */
  readonly body: AsyncIterable<Uint8Array> | null
  /** Releases its resources: called once, when the body has been sent or is not wanted, perhaps before it was read. */
  close(): unknown
}

/** A visitor's data between requests. */
export interface Session {
  /** The id in the cookie, which is secret. */
  getId(): string
  /** The value, or `fallback` if there is none or it is null. */
  get(name: string, fallback?: unknown): unknown
  /** Sets a value that JSON can hold. */
  set(name: string, value: unknown): void
  delete(name: string): void
  /** Gets a value and deletes it: for what is shown once. */
  pull(name: string, fallback?: unknown): unknown
  put(name: string, value: unknown): void
  put(values: Readonly<Record<string, unknown>>): void
  forget(names: string | readonly string[]): void
  all(): Readonly<Record<string, unknown>>
  /** Deletes everything. */
  flush(): void
  /** Whether the value exists and is neither null nor undefined. */
  has(name: string): boolean
  /** Whether the value exists, even if it is null. */
  exists(name: string): boolean
  /** Gives the data a new id; to be called at every login, or a person who knew the old id is logged in, too. */
  regenerate(): string
}

/** Loads and stores sessions. */
export interface SessionSource {
  load(cookies: Readonly<Record<string, string>>): Promise<Session>
  /** Stores changes. Returns a Set-Cookie value if the client has to receive one. */
  commit(session: Session, isEncrypted: boolean): Promise<string | null>
}

/** The parts of a request that a file answer depends on. */
export interface FileRequest {
  /** As sent. */
  readonly method: string
  /** A header field by its name, whatever its case. */
  header(name: string): string | undefined
}

/** What is said of a file in place of what it says itself: values of Content-Type, ETag and Last-Modified. */
export interface FileFields {
  readonly type?: string
  readonly etag?: string
  readonly lastModified?: string
}

/** What HTTP needs of the machine; src/http/services.ts has it. */
export interface HttpServices {
  /** The current value of a Date field. */
  date(): string
  /** Milliseconds since 1970. */
  wallClock(): number
  /** Rejects with a code like ENOENT when it cannot be opened. */
  openFile(file: FileBody, request: FileRequest, about: FileFields): Promise<AnswerParts>
  readUploads(body: AsyncIterable<Uint8Array>, contentType: string, settings: UploadSettings): Promise<UploadForm>
  /** Whether an address belongs to one of these. Throws UsageError for an invalid entry. */
  trusts(proxies: readonly string[]): (ip: string) => boolean
  accessLog(format: 'combined' | 'json'): (entry: AccessLogEntry) => void
}

/** Settings with their defaults. */
export interface Resolved extends Required<Omit<HttpSettings, 'accessLog'>> {
  readonly head: HeadLimits
  readonly quickHeads: QuickHeads
  readonly isTrusted: ((ip: string) => boolean) | null
  readonly log: AccessLog | null
  readonly services: HttpServices
}

/** Throws UsageError for invalid settings. */
export function resolved(settings: HttpSettings, services: HttpServices): Resolved {
  check(settings)
  const { trustProxy = [], accessLog = null } = settings
  const isTrusted = trustProxy.length === 0 ? null : services.trusts(trustProxy)
  const head = { ...HEAD_LIMITS, ...given(settings, ['maxHeadBytes', 'maxTargetBytes', 'maxFields']) }
  const logDated = typeof accessLog === 'string' ? services.accessLog(accessLog) : accessLog
  const log = logDated === null ? null : dating(logDated, services.wallClock)
  return {
    body: 'collect',
    maxBodyBytes: Number.POSITIVE_INFINITY,
    uploads: null,
    headerTimeoutMs: 15_000,
    bodyTimeoutMs: 30_000,
    requestTimeoutMs: 300_000,
    keepAliveTimeoutMs: 65_000,
    answerTimeoutMs: 0,
    writeTimeoutMs: 30_000,
    compress: false,
    sessions: null,
    ...defined(settings),
    websocket: readAsHere(settings.websocket ?? null, { head, isTrusted, log, sessions: settings.sessions ?? null }),
    ...head,
    trustProxy,
    head,
    quickHeads: new QuickHeads(head),
    isTrusted,
    log,
    services,
  }
}

function check(settings: HttpSettings): void {
  checkOptions('http()', settings, RULES)
  const { uploads, websocket } = settings
  checkOptions('uploads', uploads ?? {}, RULES_OF_UPLOADS)
  if ((websocket ?? null) !== null) checkProtocol('the websocket of http()', websocket)
}

/** How a request is read, whose forwarding fields are trusted, where its answer is logged, whose session it has. */
export interface Reading extends Pick<Resolved, 'head' | 'isTrusted' | 'sessions'> {
  /** Gets a line for each answer. */
  readonly log: AccessLog | null
}

/** A protocol that reads the request again: by the same limits, believing the same proxies, with the same sessions. */
interface ReadsAgain {
  behind(http: Reading): AnyProtocol
}

function readAsHere(websocket: AnyProtocol | null, reading: Reading): AnyProtocol | null {
  return websocket !== null && readsAgain(websocket) ? websocket.behind(reading) : websocket
}

function readsAgain(protocol: AnyProtocol): protocol is AnyProtocol & ReadsAgain {
  return 'behind' in protocol && typeof protocol.behind === 'function'
}

function given(settings: HttpSettings, names: readonly (keyof HeadLimits)[]): Partial<HeadLimits> {
  return Object.fromEntries(names.filter((name) => settings[name] !== undefined).map((name) => [name, settings[name]]))
}
