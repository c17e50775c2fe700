// Opens a client's connection, directly or through a proxy, from which only its own answers are received here.

import net from 'node:net'
import { formatEndpoint } from '../endpoint.ts'
import { codeOf, ProtocolError, SystemError } from '../errors.ts'
import { nothing } from '../nothing.ts'
import type { ConnectTarget, ProxySettings } from '../transport.ts'
import { authorityOf, ipv6Bytes } from './address.ts'
import { addressesOf, firstConnected } from './race.ts'

/** Connects. Rejects with a SystemError, a ProtocolError about the proxy, or the signal's reason. */
export async function dial(target: ConnectTarget, options: net.SocketConstructorOpts, signal: AbortSignal) {
  const { proxy } = target
  const hop = proxy === null ? target : { ...proxy, transport: 'tcp' as const, path: '' }
  const stream = await connected(hop, options, signal)
  if (proxy === null) return stream
  const abort = () => stream.destroy()
  signal.addEventListener('abort', abort)
  try {
    const talk = new Talk(stream)
    if (proxy.kind === 'socks5') await throughSocks(talk, proxy, target)
    else await throughHttp(talk, proxy, target)
    talk.end()
    return stream
  } catch (error) {
    stream.destroy()
    throw signal.aborted ? signal.reason : error
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

/** Rejects with a SystemError, or the signal's reason. */
async function connected(
  { transport, host, port, path }: Omit<ConnectTarget, 'proxy'>,
  options: net.SocketConstructorOpts,
  signal: AbortSignal,
): Promise<net.Socket> {
  try {
    if (transport === 'unix') return await firstConnected([{ ...options, path }], signal)
    const addresses = await unlessAborted(addressesOf(host), signal)
    return await firstConnected(
      addresses.map((address) => ({ ...options, host: address, port })),
      signal,
    )
  } catch (error) {
    if (signal.aborted) throw signal.reason
    throw connectError(error as Error, transport === 'unix' ? path : formatEndpoint(host, port))
  }
}

/** Rejects with the signal's reason as soon as there is one: a look-up cannot be taken back. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort)
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

/** If several addresses have failed, the error of the one that took longest is reported. */
function connectError(error: Error, endpoint: string): SystemError {
  const last = error instanceof AggregateError ? (error.errors.at(-1) as Error) : error
  const code = codeOf(last) || 'ECONNREFUSED'
  const syscall = code === 'ENOTFOUND' || code === 'EAI_AGAIN' ? 'getaddrinfo' : 'connect'
  return new SystemError(code, syscall, endpoint, { cause: error })
}

/** A dialogue with a proxy: a line or a few bytes each way. Bytes after its last answer belong to the destination. */
class Talk {
  readonly #stream: net.Socket
  #received = Buffer.alloc(0)
  #isOver = false
  #wake: () => void = nothing // nobody waits yet
  readonly #take = (bytes: Buffer) => {
    this.#received = Buffer.concat([this.#received, bytes])
    this.#wake()
  }
  readonly #close = () => {
    this.#isOver = true
    this.#wake()
  }

  constructor(stream: net.Socket) {
    this.#stream = stream
    stream.on('data', this.#take).on('end', this.#close).on('close', this.#close)
  }

  send(bytes: string | Uint8Array): void {
    this.#stream.write(bytes)
  }

  async receive(count: number): Promise<Buffer> {
    return this.#consume(() => count)
  }

  /** Receives up to and including `end`. */
  async receiveUntil(end: string, most: number): Promise<Buffer> {
    return this.#consume((bytes) => {
      const at = bytes.indexOf(end)
      if (at < 0 && bytes.length > most) throw refused(`its answer has no end within ${most} bytes`)
      return at < 0 ? Number.POSITIVE_INFINITY : at + end.length
    })
  }

  end(): void {
    this.#stream.off('data', this.#take).off('end', this.#close).off('close', this.#close)
    this.#stream.pause()
    if (this.#received.length > 0) this.#stream.unshift(this.#received)
  }

  async #consume(lengthOf: (bytes: Buffer) => number): Promise<Buffer> {
    for (;;) {
      const length = lengthOf(this.#received)
      if (this.#received.length >= length) {
        const answer = this.#received.subarray(0, length)
        this.#received = this.#received.subarray(length)
        return answer
      }
      if (this.#isOver) throw refused('it closed the connection')
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}

const SOCKS = 5
const NO_AUTHENTICATION = 0
const USERNAME_PASSWORD = 2
const CONNECT = 1
const IPV4 = 1
const DOMAIN = 3
const IPV6 = 4
/** RFC 1928 section 6, starting with code 1. */
const SOCKS_ERRORS = [
  'general failure',
  'not allowed by its rules',
  'network unreachable',
  'host unreachable',
  'connection refused',
  'TTL expired',
  'command not supported',
  'address type not supported',
]

async function throughSocks(talk: Talk, proxy: ProxySettings, { host, port }: ConnectTarget): Promise<void> {
  const hasName = proxy.username !== ''
  talk.send(Uint8Array.from(hasName ? [SOCKS, 2, NO_AUTHENTICATION, USERNAME_PASSWORD] : [SOCKS, 1, NO_AUTHENTICATION]))
  const [version, method] = await talk.receive(2)
  if (version !== SOCKS) throw refused('it does not speak SOCKS5')
  if (method === USERNAME_PASSWORD && hasName) await logIn(talk, proxy)
  else if (method !== NO_AUTHENTICATION) throw refused('it wants another authentication')
  talk.send(Buffer.concat([Buffer.of(SOCKS, CONNECT, 0), addressOf(host), Buffer.of(port >> 8, port & 0xff)]))
  const [answer, result = 0, , kind] = await talk.receive(4)
  if (answer !== SOCKS) throw refused('it does not speak SOCKS5')
  if (result !== 0) throw refused(SOCKS_ERRORS[result - 1] ?? `error ${result}`)
  const addressBytes = kind === IPV4 ? 4 : kind === IPV6 ? 16 : ((await talk.receive(1))[0] ?? 0)
  await talk.receive(addressBytes + 2)
}

/** RFC 1929. */
async function logIn(talk: Talk, { username, password }: ProxySettings): Promise<void> {
  const [name, secret] = [counted(username, 'user name'), counted(password, 'password')]
  talk.send(Buffer.concat([Buffer.of(1), name, secret]))
  const [, status] = await talk.receive(2)
  if (status !== 0) throw refused('it does not accept the user name or password')
}

/** Host names are passed on unresolved: the proxy resolves them. */
function addressOf(host: string): Buffer {
  if (net.isIPv4(host)) return Buffer.from([IPV4, ...host.split('.').map(Number)])
  if (net.isIPv6(host)) return Buffer.concat([Buffer.of(IPV6), ipv6Bytes(host)])
  return Buffer.concat([Buffer.of(DOMAIN), counted(host, 'host name')])
}

function counted(text: string, what: string): Buffer {
  const bytes = Buffer.from(text)
  if (bytes.length > 255) throw refused(`the ${what} is longer than SOCKS5 can say`)
  return Buffer.concat([Buffer.of(bytes.length), bytes])
}

const LONGEST_HEAD = 16_384
/** CONNECT names a port always (RFC 9110 section 9.3.6). */
const NO_USUAL_PORT = 0

async function throughHttp(talk: Talk, proxy: ProxySettings, target: ConnectTarget): Promise<void> {
  const endpoint = authorityOf(target, NO_USUAL_PORT)
  const authorization = authorizationOf(proxy)
  const lines = [`CONNECT ${endpoint} HTTP/1.1`, `Host: ${endpoint}`]
  if (authorization !== '') lines.push(`Proxy-Authorization: ${authorization}`)
  talk.send(`${lines.join('\r\n')}\r\n\r\n`)
  for (;;) {
    const head = (await talk.receiveUntil('\r\n\r\n', LONGEST_HEAD)).toString('latin1')
    const [, status = '', reason = ''] = /^HTTP\/1\.[01] (\d{3})(?: ([^\r\n]*))?\r\n/.exec(head) ?? []
    if (status === '') throw refused('it does not speak HTTP/1.1')
    if (status.startsWith('1')) continue // 1xx: another one follows
    if (!status.startsWith('2')) throw refused(`${status} ${reason}`.trim())
    return // in a 2xx to CONNECT, Content-Length and Transfer-Encoding have no meaning
  }
}

function authorizationOf({ username, password, authorization }: ProxySettings): string {
  if (authorization !== '' || username === '') return authorization
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}

function refused(why: string): ProtocolError {
  return new ProtocolError('ERR_PROXY', `the proxy refused: ${why}`)
}
