// TLS over a Node stream: one side of it, with everything its handshakes share. OpenSSL and node:tls do their part;
// this file adds what a server of many processes needs: tickets that any process accepts, files that only root may
// read, readable errors.

import { readFileSync } from 'node:fs'
import type net from 'node:net'
import type nodeTls from 'node:tls'
import { crypto } from '../builtins.ts'
import { codeOf, UsageError, works } from '../errors.ts'
import { deadlines } from '../loop/deadlines.ts'
import { MAX_SLEEP_MS } from '../loop/scheduler.ts'
import { nothing } from '../nothing.ts'
import { ANY_STRING, check, isObject, POSITIVE, type Rule, rule } from '../options.ts'
import type { TlsState } from '../protocol.ts'
import type { Secured, Tls } from '../transport.ts'
import { asciiName } from './address.ts'
import { guardedClientCallbacks, guardedServerCallbacks } from './tls-callbacks.ts'
import { hasExpired, sessionSettings } from './tls-sessions.ts'
import { trusting } from './tls-trust.ts'

/** A certificate with its key, as PEM or as file names. Files are read again at each reload. */
export interface CertificateOptions extends nodeTls.SecureContextOptions {
  /** The certificate, followed by the intermediate ones. */
  certFile?: string
  /** Its private key. */
  keyFile?: string
  /** File of trusted authorities. Default: those that come with Node. */
  caFile?: string
}

/** Options of `node:tls`, and some of our own. `minVersion` defaults to TLSv1.2. */
export interface ServerTlsOptions
  extends CertificateOptions,
    Pick<
      nodeTls.TlsOptions,
      'ALPNProtocols' | 'requestCert' | 'rejectUnauthorized' | 'SNICallback' | 'pskCallback' | 'pskIdentityHint'
    > {
  /**
   * Certificates by the name a client asks for; a star matches within one label. The exact name wins, then the pattern
   * with most characters besides stars. A name without a `ca` of its own trusts whom the server trusts, and one without
   * a `crl` nobody whom the server has revoked.
   */
  sni?: Record<string, CertificateOptions>
  /** How long a client's handshake may take, in ms. Default: 10 s; Infinity is without limit. */
  handshakeTimeoutMs?: number
}

/** TLS options of a client: those of `tls.connect`, and names of files. */
export interface ClientTlsOptions
  extends CertificateOptions,
    Pick<
      nodeTls.ConnectionOptions,
      'ALPNProtocols' | 'rejectUnauthorized' | 'servername' | 'checkServerIdentity' | 'session' | 'pskCallback'
    > {}

/** File contents by name, in base64: read by the describe process for workers that may not have the right to. */
type Files = Readonly<Record<string, string>>

/** What the master gives the processes of a group. */
export interface TlsSecrets {
  /** 48 bytes in base64, so that every process accepts the tickets of all others. Empty: keys of this process's own. */
  readonly ticketKeys: string
  readonly files: Files
}

const HANDSHAKE_TIMEOUT_MS = 10_000
const FILE_OPTIONS = { certFile: 'cert', keyFile: 'key', caFile: 'ca' } as const

/** Only our own options: the others belong to Node, which adds some with each version and checks their values. */
const RULES = {
  certFile: ANY_STRING,
  keyFile: ANY_STRING,
  caFile: ANY_STRING,
  sni: rule((value) => isObject(value) && Object.values(value).every(isObject), 'an object of certificates by name'),
  handshakeTimeoutMs: POSITIVE,
} satisfies Record<Exclude<keyof ServerTlsOptions, keyof nodeTls.TlsOptions>, Rule>

/** Node ignores options that it does not know. For these, which decide about trust, a wrong case is an error. */
const SPELLED: readonly string[] = [
  ...Object.keys(RULES),
  ...[
    'ca',
    'cert',
    'key',
    'passphrase',
    'minVersion',
    'requestCert',
    'rejectUnauthorized',
    'ALPNProtocols',
    'SNICallback',
  ],
]

/** PHP's names, which Workerman's users bring: ignored, `verify_peer` would let everyone in. */
const OF_PHP: ReadonlyMap<string, string> = new Map([
  ['local_cert', 'certFile'],
  ['local_pk', 'keyFile'],
  ['capath', 'caFile'],
  ['verify_peer', 'rejectUnauthorized, and requestCert on a server'],
  ['verify_peer_name', 'checkServerIdentity'],
  ['allow_self_signed', 'rejectUnauthorized'],
  ['peer_name', 'servername'],
  ['SNI_server_certs', 'sni'],
])

function checkSpelling(what: string, options: object): void {
  for (const name of Object.keys(options)) {
    const advice = adviceOn(name)
    if (advice !== null) throw new UsageError('ERR_UNKNOWN_OPTION', `${what} has no option '${name}': ${advice}`)
  }
}

/** Null for a name that is right, or may be Node's. */
function adviceOn(name: string): string | null {
  const right = OF_PHP.get(name) ?? SPELLED.find((one) => one.toLowerCase() === name.toLowerCase())
  if (right === undefined) return name.includes('_') ? `no option of Node's has a '_' in its name` : null
  return right === name ? null : `write ${right}`
}

/** Throws a UsageError. */
function checkOurs(what: string, options: ServerTlsOptions | CertificateOptions | ClientTlsOptions): void {
  checkSpelling(what, options)
  for (const [name, each] of Object.entries(RULES)) {
    const value: unknown = Reflect.get(options, name)
    if (value !== undefined) check(`${what}.${name}`, value, each, 'ERR_TLS_OPTION')
  }
  if ('sni' in options)
    for (const [name, each] of Object.entries(options.sni ?? {})) {
      checkName(name)
      checkOurs(`ssl.sni['${name}']`, each)
    }
}

/** Throws a UsageError for a name that no client can ask for. */
function checkName(name: string): void {
  const isMixed = name.split('.').some((label) => label.includes('*') && asciiName(label) !== label)
  if (!isMixed && (asciiName(name) !== '' || name === '')) return
  const why = isMixed ? 'a star stands for ASCII only: write the label as xn--...' : 'it has no form in ASCII'
  throw new UsageError('ERR_TLS_OPTION', `ssl.sni['${name}'] is no name: ${why}`)
}

export class TlsServer implements Tls {
  readonly #server: nodeTls.Server
  readonly #waiting = new Map<net.Socket, Secured>()

  /** Throws UsageError when there is no certificate, or it does not match its key. */
  constructor(options: ServerTlsOptions, secrets: TlsSecrets | null) {
    checkOurs('ssl', options)
    const files = secrets?.files ?? {}
    const { sni = {}, handshakeTimeoutMs = HANDSHAKE_TIMEOUT_MS, ...own } = options
    if (!hasCertificate(options)) throw noCertificate()
    const settings = settingsOf(own, handshakeTimeoutMs, files, secrets)
    const names = Object.entries(sni).map(([name, options]) => {
      return { name, pattern: asciiName(name), options, settings: trusting(resolved(options, files), settings) }
    })
    const byName = names.map(({ settings }) => settings)
    Object.assign(settings, sessionSettings(settings, byName))
    if (names.length > 0) settings.SNICallback ??= chooserOf(names)
    Object.assign(settings, guardedServerCallbacks(settings))
    this.#server = checked('ssl', own, settings, () => tls().createServer(settings))
    this.#server.on('secureConnection', (secured) => this.#opened(secured, settings.rejectUnauthorized !== false))
    this.#server.on('tlsClientError', (error, secured) => this.#failed(error, secured))
  }

  wrap(raw: net.Socket, done: Secured): void {
    this.#waiting.set(raw, done)
    // A peer that ends before the handshake does has left: node:tls would wait for its time-out.
    raw.allowHalfOpen = false
    // Deferred, since the actual reason arrives after 'close'.
    raw.once('close', () => setImmediate(() => this.#settle(raw, new Error('the peer closed'), null)))
    this.#server.emit('connection', raw)
  }

  stateOf(secured: net.Socket): TlsState {
    return new NodeTlsState(secured as nodeTls.TLSSocket)
  }

  /** Tickets under earlier keys are no longer accepted; their clients do a full handshake. */
  useTickets(keys: string): void {
    this.#server.setTicketKeys(Buffer.from(keys, 'base64'))
  }

  /** @param isStrict whether a certificate that is not trusted ends the connection */
  #opened(secured: nodeTls.TLSSocket, isStrict: boolean): void {
    if (!hasExpired(secured)) return this.#settle(parentOf(secured), null, secured)
    Object.assign(secured, { authorized: false, authorizationError: 'CERT_HAS_EXPIRED' })
    if (isStrict) secured.destroy()
    this.#settle(parentOf(secured), isStrict ? refusalOf(secured) : null, secured)
  }

  /** Told in a later turn: OpenSSL may be at work below this call, on what is destroyed then. */
  #failed(error: Error, secured: nodeTls.TLSSocket): void {
    const done = this.#take(parentOf(secured))
    const why = refusalOf(secured) ?? explained(error)
    if (done !== undefined) setImmediate(done, why, secured)
  }

  #settle(raw: net.Socket, error: Error | null, secured: nodeTls.TLSSocket | null): void {
    const done = this.#take(raw)
    if (secured !== null) secured.allowHalfOpen = true
    done?.(error, secured)
  }

  #take(raw: net.Socket): Secured | undefined {
    const done = this.#waiting.get(raw)
    this.#waiting.delete(raw)
    return done
  }
}

export class TlsClient implements Tls {
  readonly #options: nodeTls.ConnectionOptions
  readonly #timeoutMs: number

  /**
   * `host` is the name the certificate must be for, unless `servername` says otherwise. A handshake may take
   * `timeoutMs`; 0 is without limit. Throws UsageError.
   */
  constructor(options: ClientTlsOptions, host: string, timeoutMs = 0) {
    checkOurs('ssl', options)
    const settings = resolved(options, {})
    checked('ssl', options, settings, () => tls().createSecureContext(settings))
    this.#options = { servername: isName(host) ? host : '', host, ...settings, ...guardedClientCallbacks(settings) }
    this.#timeoutMs = timeoutMs
  }

  wrap(raw: net.Socket, done: Secured): void {
    // For good: of a stream that is destroyed meanwhile, the error may come after 'close'.
    const secured = tls()
      .connect({ ...this.#options, socket: raw })
      .on('error', nothing)
    const fail = (error: Error) => settle(explained(error))
    const cut = () => settle(new Error('the peer closed during the TLS handshake'))
    const late = this.#timeoutMs > 0 ? deadlines.after(this.#timeoutMs, giveUp, secured) : 0
    const settle = (error: Error | null) => {
      deadlines.cancel(late)
      secured.off('error', fail).off('close', cut)
      done(error, secured)
    }
    secured.once('error', fail).once('close', cut)
    secured.once('secureConnect', () => settle(null))
  }

  stateOf(secured: net.Socket): TlsState {
    return new NodeTlsState(secured as nodeTls.TLSSocket)
  }
}

/** Reads every file that these options name. Throws UsageError. */
export function readTlsFiles(options: ServerTlsOptions): Record<string, string> {
  checkOurs('ssl', options)
  const files: Record<string, string> = {}
  for (const each of [options, ...Object.values(options.sni ?? {})]) {
    for (const [name, option] of Object.entries(FILE_OPTIONS)) {
      const path = each[name as keyof typeof FILE_OPTIONS]
      if (path !== undefined) files[path] = readOrThrow(path, option).toString('base64')
    }
  }
  return files
}

/** Fields are read on demand: a certificate that is never looked at costs nothing. */
class NodeTlsState implements TlsState {
  readonly #socket: nodeTls.TLSSocket

  constructor(socket: nodeTls.TLSSocket) {
    this.#socket = socket
  }

  get version(): string {
    return this.#socket.getProtocol() ?? ''
  }

  get cipher(): string {
    return this.#socket.getCipher()?.standardName ?? ''
  }

  get alpn(): string {
    return this.#socket.alpnProtocol || ''
  }

  get serverName(): string {
    return (this.#socket as { servername?: string | false }).servername || ''
  }

  get isResumed(): boolean {
    return this.#socket.isSessionReused()
  }

  get isAuthorized(): boolean {
    return this.#socket.authorized
  }

  get authorizationError(): string {
    return reasonOf(this.#socket)
  }

  get peerCertificate() {
    return this.#socket.getPeerX509Certificate() ?? null
  }
}

/** With the error that node:tls has for a server's handshake. */
function giveUp(secured: nodeTls.TLSSocket): void {
  secured.destroy(Object.assign(new Error('TLS handshake timeout'), { code: 'ERR_TLS_HANDSHAKE_TIMEOUT' }))
}

/** Why the peer is not authorized, as a code; empty if it is, or was not asked. */
function reasonOf(socket: nodeTls.TLSSocket): string {
  const { authorizationError } = socket as { authorizationError?: Error | string | null }
  return authorizationError ? String((authorizationError as { code?: string }).code ?? authorizationError) : ''
}

/** Of a client whose certificate was not accepted, for which node:tls says only that the connection was reset. */
function refusalOf(secured: nodeTls.TLSSocket): Error | null {
  const code = reasonOf(secured)
  return code === '' ? null : Object.assign(new Error("the client's certificate was refused"), { code })
}

/** The stream below. It has no public name, and the same private one since Node 0.11. */
function parentOf(secured: nodeTls.TLSSocket): net.Socket {
  return (secured as unknown as { _parent: net.Socket })._parent
}

function settingsOf(
  options: Omit<ServerTlsOptions, 'sni' | 'handshakeTimeoutMs'>,
  handshakeTimeout: number,
  files: Files,
  secrets: TlsSecrets | null,
): nodeTls.TlsOptions {
  const settings = resolved(options, files)
  const ticketKeys = secrets?.ticketKeys ? Buffer.from(secrets.ticketKeys, 'base64') : undefined
  return { ...settings, handshakeTimeout: Math.min(handshakeTimeout, MAX_SLEEP_MS), ticketKeys }
}

type SniCallback = NonNullable<nodeTls.TlsOptions['SNICallback']>

/** A certificate for a name or a pattern of names: as given, and with its files read and whom the server trusts. */
interface Named {
  readonly name: string
  /** The name in ASCII, as clients ask for it. */
  readonly pattern: string
  readonly options: CertificateOptions
  readonly settings: nodeTls.SecureContextOptions
}

/** Compares names regardless of case (RFC 4343), which `addContext` of node:tls does not. */
function chooserOf(names: readonly Named[]): SniCallback {
  const contexts = names.toSorted(bySpecificity).map(({ name, pattern, options, settings }) => {
    const context = checked(`ssl.sni['${name}']`, options, settings, () => tls().createSecureContext(settings))
    return { expression: expressionOf(pattern), context }
  })
  return (name, done) => done(null, contexts.find(({ expression }) => expression.test(name))?.context)
}

/** Exact names first, then patterns with more characters besides stars; among equals the order does not change. */
function bySpecificity(one: Named, other: Named): number {
  const weights = [one, other].map(({ pattern }) =>
    pattern.includes('*') ? pattern.replaceAll('*', '').length : Number.MAX_SAFE_INTEGER,
  )
  return (weights[1] ?? 0) - (weights[0] ?? 0)
}

/** A star matches within one label. */
function expressionOf(pattern: string): RegExp {
  return new RegExp(`^${pattern.replace(/[.^$+?()|\\[\]{}]/g, '\\$&').replaceAll('*', '[^.]*')}$`, 'i')
}

function resolved<T extends CertificateOptions>(options: T, files: Files): Omit<T, keyof typeof FILE_OPTIONS> {
  const { certFile, keyFile, caFile, ...settings } = options
  const read = { certFile, keyFile, caFile }
  const contents = Object.entries(FILE_OPTIONS).flatMap(([name, option]) => {
    const path = read[name as keyof typeof FILE_OPTIONS]
    if (path === undefined) return []
    const given = files[path]
    return [[option, given === undefined ? readOrThrow(path, option) : Buffer.from(given, 'base64')]]
  })
  return { minVersion: 'TLSv1.2', ...settings, ...Object.fromEntries(contents) }
}

function readOrThrow(path: string, option: string): Buffer {
  try {
    return readFileSync(path)
  } catch (cause) {
    throw new UsageError('ERR_TLS_FILE', `ssl: ${option}File ${path} cannot be read: ${codeOf(cause)}`, { cause })
  }
}

function hasCertificate({ sni, SNICallback, pskCallback, ...own }: ServerTlsOptions): boolean {
  const hasOwn = (own.cert ?? own.certFile) !== undefined && (own.key ?? own.keyFile) !== undefined
  return hasOwn || own.pfx !== undefined || sni !== undefined || SNICallback !== undefined || pskCallback !== undefined
}

function noCertificate(): UsageError {
  const example = `ssl: { certFile: '/etc/ssl/app.pem', keyFile: '/etc/ssl/app.key' }`
  return new UsageError('ERR_TLS_NO_CERTIFICATE', `TLS needs a certificate and its key: ${example}`)
}

/** OpenSSL's errors name no option: for something that is not a key it says only 'unsupported'. */
function checked<T>(
  what: string,
  options: CertificateOptions,
  settings: nodeTls.SecureContextOptions,
  call: () => T,
): T {
  try {
    return call()
  } catch (cause) {
    if (cause instanceof UsageError) throw cause
    const why = wrongPart(options, settings) ?? explained(cause as Error).message
    throw new UsageError('ERR_TLS_OPTION', `${what} cannot be used: ${why}`, { cause })
  }
}

/** Which of the two is not what it should be; null when both are fine. */
function wrongPart({ keyFile, certFile }: CertificateOptions, settings: nodeTls.SecureContextOptions): string | null {
  const { key, cert, passphrase } = settings
  const asKey = () => crypto().createPrivateKey({ key: key as string | Buffer, passphrase })
  const asCertificate = () => new (crypto().X509Certificate)(cert as string | Buffer)
  // OpenSSL's text is no help: `unsupported`.
  if (isOne(key) && !works(asKey)) {
    const isLocked = passphrase === undefined && String(key).includes('ENCRYPTED')
    return `${inFile('key', keyFile)} is ${isLocked ? 'encrypted: set ssl.passphrase' : 'no private key in PEM'}`
  }
  return isOne(cert) && !works(asCertificate) ? `${inFile('cert', certFile)} is no certificate in PEM` : null
}

function isOne(value: unknown): boolean {
  return typeof value === 'string' || value instanceof Uint8Array
}

function inFile(option: string, path: string | undefined): string {
  return path === undefined ? option : `${option}File ${path}`
}

/** `no shared cipher` instead of a line of hexadecimal. */
function explained(error: Error): Error {
  const { reason } = error as { reason?: string }
  if (reason !== undefined) error.message = reason
  return error
}

/** SNI is for names; RFC 6066 section 3 allows no addresses. */
function isName(host: string): boolean {
  return host !== '' && !host.includes(':') && !/^[\d.]+$/.test(host)
}

/** Loaded on first use: it takes some milliseconds of a process's start. */
function tls(): typeof nodeTls {
  return process.getBuiltinModule('node:tls')
}
