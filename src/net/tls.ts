// TLS over a stream of Node's: one side of it, with all that its handshakes share. What OpenSSL and node:tls do, they do;
// here is what a server of many processes adds: tickets that any of them takes, files that only root may read, errors
// in a sentence.

import { readFileSync } from 'node:fs'
import type net from 'node:net'
import type nodeTls from 'node:tls'
import { crypto } from '../builtins.ts'
import { codeOf, UsageError } from '../errors.ts'
import type { TlsState } from '../protocol.ts'
import type { Secured, Tls } from '../transport.ts'

/** A certificate with its key, as PEM or as the name of a file with that. Files are read again at each reload. */
export interface CertificateOptions extends nodeTls.SecureContextOptions {
  certFile?: string
  keyFile?: string
  /** Whom to trust; by default the authorities that Node brings along. */
  caFile?: string
}

/** The options of `node:tls`, and some of ours; `minVersion` is TLSv1.2 by default. */
export interface ServerTlsOptions
  extends CertificateOptions,
    Pick<
      nodeTls.TlsOptions,
      'ALPNProtocols' | 'requestCert' | 'rejectUnauthorized' | 'SNICallback' | 'pskCallback' | 'pskIdentityHint'
    > {
  /** Certificates by the name that a client asks for; `*.example.org` stands for any one label. */
  sni?: Record<string, CertificateOptions>
  /** How long a client may take to shake hands. */
  handshakeTimeoutMs?: number
}

export interface ClientTlsOptions
  extends CertificateOptions,
    Pick<
      nodeTls.ConnectionOptions,
      'ALPNProtocols' | 'rejectUnauthorized' | 'servername' | 'checkServerIdentity' | 'session' | 'pskCallback'
    > {}

/** Contents of files by name, in base64: read by the describe process for workers that may have no right to. */
export type Files = Readonly<Record<string, string>>

/** What the master gives the processes of a group. */
export interface TlsSecrets {
  /** 48 bytes in base64: a ticket of one process is taken by every other. Empty: this process's own. */
  readonly ticketKeys: string
  readonly files: Files
}

const HANDSHAKE_TIMEOUT_MS = 10_000
const FILE_OPTIONS = { certFile: 'cert', keyFile: 'key', caFile: 'ca' } as const

export class TlsServer implements Tls {
  readonly #server: nodeTls.Server
  readonly #waiting = new Map<net.Socket, Secured>()

  /** Throws a UsageError when there is no certificate, or it does not fit its key. */
  constructor(options: ServerTlsOptions, secrets: TlsSecrets | null) {
    const files = secrets?.files ?? {}
    const { sni = {}, handshakeTimeoutMs = HANDSHAKE_TIMEOUT_MS, ...own } = options
    if (!hasCertificate(options)) throw noCertificate()
    const settings = settingsOf(own, handshakeTimeoutMs, files, secrets)
    if (Object.keys(sni).length > 0) settings.SNICallback ??= chooserOf(sni, files)
    this.#server = checked('ssl', own, settings, () => tls().createServer(settings))
    this.#server.on('secureConnection', (secured) => this.#settle(parentOf(secured), null, secured))
    this.#server.on('tlsClientError', (error, secured) => this.#settle(parentOf(secured), explained(error), secured))
  }

  wrap(raw: net.Socket, done: Secured): void {
    this.#waiting.set(raw, done)
    raw.allowHalfOpen = false // who ends before the handshake does, has ended: node:tls would wait for its time-out
    raw.once('close', () => setImmediate(() => this.#settle(raw, new Error('the peer closed'), null))) // the reason comes later
    this.#server.emit('connection', raw)
  }

  stateOf(secured: net.Socket): TlsState {
    return new NodeTlsState(secured as nodeTls.TLSSocket)
  }

  /** Tickets under the keys before are not taken any more; their clients shake hands in full. */
  useTickets(keys: string): void {
    this.#server.setTicketKeys(Buffer.from(keys, 'base64'))
  }

  #settle(raw: net.Socket, error: Error | null, secured: nodeTls.TLSSocket | null): void {
    const done = this.#waiting.get(raw)
    this.#waiting.delete(raw)
    if (secured !== null) secured.allowHalfOpen = true
    done?.(error, secured)
  }
}

export class TlsClient implements Tls {
  readonly #options: nodeTls.ConnectionOptions

  /** `host` is whom the certificate must be of, unless `servername` says otherwise. Throws a UsageError. */
  constructor(options: ClientTlsOptions, host: string) {
    const settings = resolved(options, {})
    checked('ssl', options, settings, () => tls().createSecureContext(settings))
    this.#options = { servername: isName(host) ? host : '', host, ...settings }
  }

  wrap(raw: net.Socket, done: Secured): void {
    const secured = tls().connect({ ...this.#options, socket: raw })
    const fail = (error: Error) => settle(explained(error))
    const cut = () => settle(new Error('the peer closed during the TLS handshake'))
    const settle = (error: Error | null) => {
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

/** Every file that these options name, read now. Throws a UsageError. */
export function readTlsFiles(options: ServerTlsOptions): Record<string, string> {
  const files: Record<string, string> = {}
  for (const each of [options, ...Object.values(options.sni ?? {})]) {
    for (const [name, option] of Object.entries(FILE_OPTIONS)) {
      const path = each[name as keyof typeof FILE_OPTIONS]
      if (path !== undefined) files[path] = readOrThrow(path, option).toString('base64')
    }
  }
  return files
}

/** Read when it is asked for: nobody pays for a certificate that nobody looks at. */
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
    const { authorizationError } = this.#socket as { authorizationError?: Error | string | null }
    return authorizationError ? String((authorizationError as { code?: string }).code ?? authorizationError) : ''
  }

  get peerCertificate() {
    return this.#socket.getPeerX509Certificate() ?? null
  }
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
  return { ...settings, handshakeTimeout, ticketKeys, sessionIdContext: contextOf(settings) }
}

type SniCallback = NonNullable<nodeTls.TlsOptions['SNICallback']>

/** Names are equal whatever their case (RFC 4343), and node:tls's own `addContext` compares it. */
function chooserOf(sni: Record<string, CertificateOptions>, files: Files): SniCallback {
  const contexts = Object.entries(sni).map(([name, options]) => {
    const settings = resolved(options, files)
    const context = checked(`ssl.sni['${name}']`, options, settings, () => tls().createSecureContext(settings))
    return { pattern: patternOf(name), context }
  })
  return (name, done) => done(null, contexts.findLast(({ pattern }) => pattern.test(name))?.context)
}

/** A star is within one label. */
function patternOf(name: string): RegExp {
  return new RegExp(`^${name.replace(/[.^$+?()|\\[\]{}]/g, '\\$&').replaceAll('*', '[^.]*')}$`, 'i')
}

/** Sessions are only resumed where clients are asked for the same things: a ticket must not outlive whom we trust. */
function contextOf({ ca, requestCert, rejectUnauthorized }: nodeTls.TlsOptions): string {
  const asked = JSON.stringify([String(ca ?? ''), requestCert === true, rejectUnauthorized !== false])
  return crypto().createHash('sha256').update(asked).digest('hex').slice(0, 32) // OpenSSL takes 32 bytes
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

/** OpenSSL's errors name no option: 'unsupported' is what it says of a key that is none. */
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

/** Which of the two is not what it should be; null when both are. */
function wrongPart({ keyFile, certFile }: CertificateOptions, settings: nodeTls.SecureContextOptions): string | null {
  const { key, cert, passphrase } = settings
  const asKey = () => crypto().createPrivateKey({ key: key as string | Buffer, passphrase })
  const asCertificate = () => new (crypto().X509Certificate)(cert as string | Buffer)
  if (isOne(key) && !works(asKey)) {
    const isLocked = passphrase === undefined && String(key).includes('ENCRYPTED')
    return `${inFile('key', keyFile)} is ${isLocked ? 'encrypted: set ssl.passphrase' : 'no private key in PEM'}`
  }
  return isOne(cert) && !works(asCertificate) ? `${inFile('cert', certFile)} is no certificate in PEM` : null
}

function isOne(value: unknown): boolean {
  return typeof value === 'string' || value instanceof Uint8Array
}

function works(parse: () => unknown): boolean {
  try {
    parse()
    return true
  } catch {
    return false // its words are OpenSSL's: `unsupported`
  }
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

/** Loaded by the first who uses it: it takes a process some milliseconds of its start. */
function tls(): typeof nodeTls {
  return process.getBuiltinModule('node:tls')
}
