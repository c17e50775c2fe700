// A request as a handler sees it. Nothing is parsed before it is asked for, and names that clients choose (of
// parameters, cookies, fields) go into maps without a prototype.

import { UsageError } from '../../src/errors.ts'
import type { CodecIo } from '../../src/protocol.ts'
import { codingFor } from './codings.ts'
import { type Cookies, parseCookies } from './cookies.ts'
import type { Fields } from './fields.ts'
import {
  type BodyMap,
  type BodyValue,
  FORM_LIMITS,
  FormBuilder,
  type FormMap,
  type FormValue,
  parseForm,
} from './forms.ts'
import type { RequestHead } from './head.ts'
import { addressIn, isHost } from './host.ts'
import { parseJson, parseJsonForm } from './json.ts'
import { RequestBody } from './request-body.ts'
import type { Session, UploadedFile, UploadForm } from './settings.ts'

/** What a request needs from its connection. */
interface RequestHost {
  readonly isTrusted: ((ip: string) => boolean) | null
  /** The request's own signal. Without it, requests have that of their connection. */
  readonly signal?: AbortSignal
  loadSession(request: Request): Promise<Session>
}

/** The collected body of a request without one. */
export const NO_BODY: Buffer = Buffer.alloc(0)

const NO_FIELDS: Fields = Object.freeze(Object.create(null))

/** State that few requests have or use. */
interface Known {
  form: UploadForm | null
  headers: Fields | null
  trailers: Fields | null
  query: FormMap | null
  post: BodyMap | null
  cookies: Cookies | null
  session: Promise<Session> | null
}

/** A request. Nothing is parsed before it is asked for. */
export class Request {
  readonly #head: RequestHead
  readonly #io: Pick<CodecIo, 'peer' | 'signal'>
  readonly #host: RequestHost
  #body: RequestBody | null
  #collected: Buffer | null = null
  #context: Record<PropertyKey, unknown> | null = null
  #known: Known | null = null

  /** @internal `body` is null if there is none. */
  constructor(head: RequestHead, body: RequestBody | null, io: Pick<CodecIo, 'peer' | 'signal'>, host: RequestHost) {
    this.#head = head
    this.#io = io
    this.#host = host
    this.#body = body
  }

  /** A place for the application's own data; the server does not use it. */
  get context(): Record<PropertyKey, unknown> {
    this.#context ??= {}
    return this.#context
  }

  set context(value: Record<PropertyKey, unknown>) {
    this.#context = value
  }

  /** The body as it arrives; can be read once. A collected body comes all at once. */
  get body(): RequestBody {
    this.#body ??= RequestBody.empty()
    return this.#body
  }

  /** As sent: `GET`. Any token is one. */
  get method(): string {
    return this.#head.method
  }

  /** As sent: `/path?query`. */
  get uri(): string {
    return this.#head.target
  }

  /** Neither decoded nor normalised; `/` if there is none. */
  get path(): string {
    const { uri } = this
    const start = pathStart(uri)
    return uri.slice(start, pathEnd(uri, start)) || '/'
  }

  /** The text after the question mark; empty without one. */
  get queryString(): string {
    const { uri } = this
    return uri.slice(pathEnd(uri, pathStart(uri)) + 1)
  }

  /** Parameters of the query, without a prototype. Throws ProtocolError for too many, or too deep ones. */
  get query(): FormMap {
    const known = this.#more()
    known.query ??= parseForm(this.queryString)
    return known.query
  }

  /** By lower-case name. */
  get headers(): Fields {
    const known = this.#more()
    known.headers ??= this.#head.fields
    return known.headers
  }

  /** By name, without a prototype. The first of a name counts. */
  get cookies(): Cookies {
    const known = this.#more()
    known.cookies ??= parseCookies(this.header('cookie') ?? '')
    return known.cookies
  }

  /** `1.0` or `1.1`. */
  get protocolVersion(): string {
    return `1.${this.#head.minorVersion}`
  }

  /** `host` or `host:port`, from the client or a trusted proxy. */
  get host(): string {
    const told = this.#forwarded('x-forwarded-host')
    return told !== undefined && isHost(told) ? told : this.#head.authority
  }

  /** `https` if this connection or the one to a trusted proxy uses TLS. */
  get scheme(): 'http' | 'https' {
    const told = this.#forwarded('x-forwarded-proto')?.toLowerCase()
    if (told === 'https' || told === 'wss') return 'https'
    if (told === 'http' || told === 'ws') return 'http'
    return this.#io.peer.isEncrypted ? 'https' : 'http'
  }

  /** The client's address. Behind trusted proxies: the last address in the chain that is not one of theirs. */
  get remoteIp(): string {
    return this.#route().ip
  }

  /**
   * Aborts when the client has gone (ERR_CONNECTION_CLOSED), a second after it has ended its side (ERR_CLIENT_ENDED: it
   * may be gone, or have half-closed), or when the worker is leaving and its time is nearly up (ERR_WORKER_STOPPING),
   * until the answer is complete. For work after the answer there is `connection.signal`.
   */
  get signal(): AbortSignal {
    return this.#host.signal ?? this.#io.signal
  }

  /** A parameter of the query, or all of them. */
  get(): FormMap
  get(name: string): FormValue | undefined
  get(name: string, fallback: FormValue): FormValue
  get(name?: string, fallback?: FormValue): FormMap | FormValue | undefined {
    return name === undefined ? this.query : (this.query[name] ?? fallback)
  }

  /**
   * A parameter of the body, or all of them; none for a body of another type. In a form or an upload it is a text, or a
   * list or map of texts; in a JSON object it is whatever the client has sent, but for `__proto__` and
   * `constructor.prototype`, which are dropped everywhere. `fallback` also stands for null. Throws UsageError for a
   * streamed body (ERR_BODY_STREAMED), and for a multipart one where `uploads` are off (ERR_NO_UPLOADS).
   */
  post(): BodyMap
  post(name: string): BodyValue | undefined
  post(name: string, fallback: NonNullable<BodyValue>): NonNullable<BodyValue>
  post(name?: string, fallback?: BodyValue): BodyMap | BodyValue | undefined {
    const known = this.#more()
    known.post ??= this.#parsePost()
    return name === undefined ? known.post : (known.post[name] ?? fallback)
  }

  /** A header field by its name, or all of them. */
  header(): Fields
  header(name: string): string | undefined
  header(name: string, fallback: string): string
  header(name?: string, fallback?: string): Fields | string | undefined {
    return name === undefined ? this.headers : (this.#head.header(name) ?? fallback)
  }

  /** A cookie by its name, or all of them. */
  cookie(): Cookies
  cookie(name: string): string | undefined
  cookie(name: string, fallback: string): string
  cookie(name?: string, fallback?: string): Cookies | string | undefined {
    return name === undefined ? this.cookies : (this.cookies[name] ?? fallback)
  }

  /** Returns the one of these content codings that the client prefers (the first among equals), or null for none. */
  codingFor(codings: readonly string[]): string | null {
    return codingFor(this.header('accept-encoding') ?? '', codings)
  }

  /** The uploaded file of a field, or all files; see `uploads` in the settings. */
  file(): readonly UploadedFile[]
  file(fieldName: string): UploadedFile | undefined
  file(fieldName?: string): UploadedFile | readonly UploadedFile[] | undefined {
    return fieldName === undefined ? this.files : this.files.find((file) => file.fieldName === fieldName)
  }

  /**
   * All uploaded files, in their order; none without a multipart body. Throws UsageError for one that is streamed
   * (ERR_BODY_STREAMED), or where `uploads` are off (ERR_NO_UPLOADS).
   */
  get files(): readonly UploadedFile[] {
    const form = this.#known?.form ?? null
    if (form !== null) return form.files
    this.#refuseForm(this.#mediaType)
    return []
  }

  /** A field sent after a chunked body, or all of them; never one of the head. */
  trailer(): Fields
  trailer(name: string): string | undefined
  trailer(name: string, fallback: string): string
  trailer(name?: string, fallback?: string): Fields | string | undefined {
    const trailers = this.#known?.trailers ?? NO_FIELDS
    return name === undefined ? trailers : (trailers[name.toLowerCase()] ?? fallback)
  }

  /** The visitor's session, loaded once; changes are stored before the answer is sent. Needs `sessions`. */
  session(): Promise<Session> {
    const known = this.#more()
    known.session ??= this.#host.loadSession(this)
    return known.session
  }

  /** The head as received, latin1. */
  rawHead(): string {
    return this.#head.raw
  }

  /** The whole body. Throws UsageError if the body is streamed. */
  rawBody(): Buffer {
    if (this.#collected === NO_BODY) this.#collected = Buffer.alloc(0) // a Buffer of its own, as for any other request
    if (this.#collected !== null) return this.#collected
    throw new UsageError('ERR_BODY_STREAMED', 'this body is a stream: for await (const bytes of request.body)')
  }

  /** The whole body, as UTF-8. Throws UsageError when it is streamed. */
  text(): string {
    return this.rawBody().toString()
  }

  /**
   * The body parsed as JSON, as it was sent: an object in it may have an own `__proto__`, which Object.assign() makes
   * the prototype. Throws ProtocolError, which is answered with 400, if it is not JSON.
   */
  json(): unknown {
    return parseJson(this.text())
  }

  /** @internal */
  complete(collected: Buffer | null, trailers: Fields | null, form: UploadForm | null): void {
    this.#collected = collected
    if (trailers === null && form === null) return
    const known = this.#more()
    known.trailers ??= trailers // of an upload they come before its form
    known.form ??= form
  }

  #more(): Known {
    this.#known ??= {
      form: null,
      headers: null,
      trailers: null,
      query: null,
      post: null,
      cookies: null,
      session: null,
    }
    return this.#known
  }

  get #mediaType(): string {
    return (this.header('content-type') ?? '').split(';', 1).join('').trim().toLowerCase()
  }

  /** A multipart body that nobody has parsed is not one without fields and files. */
  #refuseForm(type: string): void {
    if (type === 'multipart/form-data' && this.rawBody().length > 0)
      throw new UsageError('ERR_NO_UPLOADS', 'uploads are off: http({ uploads: {} })')
  }

  #parsePost(): BodyMap {
    const form = this.#known?.form ?? null
    if (form !== null) return formOf(form)
    const type = this.#mediaType
    this.#refuseForm(type)
    if (type === '' || type === 'application/x-www-form-urlencoded') return parseForm(this.text())
    if (type === 'application/json' || type.endsWith('+json')) return parseJsonForm(this.text())
    return Object.create(null)
  }

  /**
   * Follows the chain of trusted proxies, each of which names the address before it. Returns the client's address and
   * the number of proxies followed.
   */
  #route(): { readonly ip: string; readonly hops: number } {
    const { isTrusted } = this.#host
    let ip = this.#io.peer.remoteIp
    let hops = 0
    if (isTrusted === null) return { ip, hops }
    const chain = (this.header('x-forwarded-for') ?? '').split(',').map((part) => part.trim())
    for (; isTrusted(ip) && chain.length > 0; hops++) {
      const before = addressIn(chain.pop() as string)
      if (before === null) break
      ip = before
    }
    return { ip, hops }
  }

  /**
   * Each proxy appends a value. Returns the one from the outermost trusted proxy: values before it were sent by its
   * client.
   */
  #forwarded(name: string): string | undefined {
    const { isTrusted } = this.#host
    if (isTrusted === null || !isTrusted(this.#io.peer.remoteIp)) return undefined
    const told = this.header(name)?.split(',')
    return told?.[Math.max(0, told.length - Math.max(1, this.#route().hops))]?.trim()
  }
}

/**
 * The request is for an https resource but came without TLS (RFC 9110 section 7.4), so no client could trust the
 * answer.
 */
export function isMisdirected({ uri, scheme }: Pick<Request, 'uri' | 'scheme'>): boolean {
  return /^https:/i.test(uri) && scheme !== 'https'
}

/** Where the path begins in a target. */
function pathStart(uri: string): number {
  return uri.startsWith('/') ? 0 : (/^[a-z]+:\/\/[^/?]*/i.exec(uri)?.[0].length ?? 0)
}

function pathEnd(uri: string, start: number): number {
  const query = uri.indexOf('?', start)
  return query < 0 ? uri.length : query
}

function formOf({ fields }: UploadForm): FormMap {
  const form = new FormBuilder({ ...FORM_LIMITS, maxParameters: fields.length }) // `uploads` has a limit of its own
  for (const [name, value] of fields) form.add(name, value)
  return form.finish()
}
