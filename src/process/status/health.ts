// Probes: `/healthz`, `/readyz` and `/metrics`, off unless an address is given. The master answers, since only it knows
// the states of all processes, and from what it already knows: no probe waits for a worker, nor can it keep the master
// busy (a few connections of one answer each, small heads, no bodies, metrics rendered a few times a second). Answers
// contain numbers, but no pid, no path and no reason of a crash. node:http costs 1.4 MiB, so it is loaded on demand.

import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { messageOf, SystemError } from '../../errors.ts'
import { log } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { type Address, parseHttpAddress } from '../../net/address.ts'
import { closeUnix, fileId, removeStaleSocket } from '../../net/bound-socket.ts'
import { scarceFrom } from '../../net/descriptors.ts'
import { tidy } from '../master/tidy.ts'
import { renderMetrics } from './metrics.ts'
import { type HealthAnswer, healthOf, readinessOf, type Seen } from './readiness.ts'
import { Visits } from './visits.ts'

/** A probe holds a connection only briefly; more than this many at a time are not probes. */
const MOST_CONNECTIONS = 64
/** Of the descriptors that the master may have: the rest is for the server. */
const MOST_SHARE = 1 / 8
const MOST_HEAD_BYTES = 8192
/** Time for a whole request to arrive. */
const REQUEST_TIMEOUT_MS = 5000
/** Time for that and for the answer to be read. */
const LONGEST_VISIT_MS = 10_000
/** For how long metrics count as new: with many workers they take milliseconds. */
const METRICS_KEPT_MS = 100

/** A server that listens. */
interface Listener {
  readonly server: Server
  /** Path of a Unix socket, and the file that it has made there (see `fileId`); empty on a port. */
  readonly path: string
  readonly file: string
}

export class HealthServer {
  readonly #look: () => Seen
  readonly #metrics: RecentMetrics
  #listener: Listener | null = null
  #address = ''
  #suspended = ''
  /** A second address in use until `settle`. */
  #next: { readonly listener: Listener | null; readonly address: string } | null = null
  #isRestoring = false
  /** The last failure to restore, which is logged once. */
  #said = ''

  constructor(look: () => Seen) {
    this.#look = look
    this.#metrics = new RecentMetrics(look)
  }

  /**
   * Listens only at this address from now on; empty: nowhere. On failure rejects with a SystemError, and nothing has
   * changed.
   */
  async listen(address: string): Promise<void> {
    await this.listenBeside(address)
    this.settle(true)
  }

  /**
   * Listens at this address too, until `settle` decides. On failure rejects with a SystemError, and nothing has
   * changed.
   */
  async listenBeside(address: string): Promise<void> {
    this.settle(false)
    if (address === this.#address) return this.restore()
    this.#next = { listener: address === '' ? null : await this.#open(parseHttpAddress(address)), address }
  }

  /** Keeps the new address and drops the old one if `isWanted`; otherwise the reverse. */
  settle(isWanted: boolean): void {
    const next = this.#next
    this.#next = null
    if (next === null) return
    if (!isWanted) return shut(next.listener)
    shut(this.#listener)
    this.#listener = next.listener
    this.#address = next.address
  }

  /** Leaves its port to another process, until `resume`. */
  suspend(): void {
    const address = this.#address
    this.close()
    this.#suspended = address
  }

  /** Listens again where it did. Rejects with a SystemError. */
  async resume(): Promise<void> {
    const address = this.#suspended
    this.#suspended = ''
    if (address !== '') await this.listen(address)
  }

  close(): void {
    this.settle(false)
    shut(this.#listener)
    this.#listener = null
    this.#address = ''
  }

  /** Listens anew if somebody has removed the file of its Unix socket. Never rejects: a failure is logged. */
  async restore(): Promise<void> {
    const lost = this.#listener
    if (lost === null || this.#isRestoring || !isLost(lost)) return
    this.#isRestoring = true
    try {
      const anew = await this.#open(parseHttpAddress(this.#address))
      if (this.#listener !== lost) return shut(anew) // closed or moved meanwhile
      this.#listener = anew
      shut(lost)
      this.#say(`${lost.path} (health): somebody has removed it, it is made anew`)
      this.#said = ''
    } catch (error) {
      this.#say(messageOf(error))
    } finally {
      this.#isRestoring = false
    }
  }

  #say(message: string): void {
    if (message !== this.#said) log(message)
    this.#said = message
  }

  async #open({ host, port, path, transport }: Address): Promise<Listener> {
    const { createServer } = await import('node:http')
    const limits = {
      connectionsCheckingInterval: 1000,
      maxHeaderSize: MOST_HEAD_BYTES,
      requestTimeout: REQUEST_TIMEOUT_MS,
    }
    const visits = new Visits(Math.min(MOST_CONNECTIONS, Math.ceil(scarceFrom() * MOST_SHARE)), LONGEST_VISIT_MS)
    const server = createServer(limits, (request, response) => {
      if (visits.asks(request.socket)) this.#answer(request, response)
    })
    server.on('connection', (socket) => visits.begin(socket))
    const at = transport === 'unix' ? path : `${host}:${port}`
    if (transport === 'unix') await removeStaleSocket(path)
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause: NodeJS.ErrnoException) => {
        reject(new SystemError(cause.code ?? 'ERR', cause.syscall ?? 'listen', `${at} (health)`, { cause }))
      })
      server.listen(transport === 'unix' ? { path } : { host, port }, resolve)
    })
    server.on('error', (error) => log(`health: ${error.message}`)) // EMFILE at accept
    const bound = server.address()
    if (port === 0 && bound !== null && typeof bound === 'object') log(`health: http://${host}:${bound.port}`)
    return { server, path, file: transport === 'unix' ? fileId(path) : '' }
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { method, url = '' } = request
    const path = url.split('?')[0] ?? ''
    response.setHeader('Cache-Control', 'no-store')
    response.setHeader('Connection', 'close')
    if (!PAGES.includes(path)) return end(response, 404, 'text/plain', `${PAGES.join(' ')}\n`)
    if (method !== 'GET' && method !== 'HEAD') {
      response.setHeader('Allow', 'GET, HEAD')
      return end(response, 405, 'text/plain', 'GET or HEAD\n')
    }
    if (path === '/healthz') return judge(response, healthOf(this.#look()))
    if (path === '/readyz') return judge(response, readinessOf(this.#look()))
    const isOpen = (request.headers.accept ?? '').includes('application/openmetrics-text')
    end(response, 200, isOpen ? OPEN_METRICS : PLAIN_METRICS, this.#metrics.text(isOpen))
  }
}

/** The file of a Unix socket is left alone if it is another server's by now. */
function shut(listener: Listener | null): void {
  if (listener === null) return
  const { server, path, file } = listener
  server.unref() // should it not be possible to close it without removing that file
  if (path === '') server.close()
  else tidy(() => closeUnix(() => server.close(), path, file))
  server.closeAllConnections()
}

/** Whether no client finds it: its file has gone, or another one is in its place. */
function isLost({ path, file }: Listener): boolean {
  try {
    return path !== '' && fileId(path) !== file
  } catch {
    return false // ENOTDIR, EACCES: whether it is there cannot be seen, and a new one could not be made
  }
}

const OPEN_METRICS = 'application/openmetrics-text; version=1.0.0; charset=utf-8'
const PLAIN_METRICS = 'text/plain; version=0.0.4; charset=utf-8'

const PAGES = ['/healthz', '/readyz', '/metrics']

/** Renders metrics only as often as they can have changed for somebody who looks. */
class RecentMetrics {
  readonly #look: () => Seen
  readonly #known = new Map<boolean, { readonly text: string; readonly at: number }>()

  constructor(look: () => Seen) {
    this.#look = look
  }

  text(isOpen: boolean): string {
    const known = this.#known.get(isOpen)
    const time = now()
    if (known !== undefined && time - known.at < METRICS_KEPT_MS) return known.text
    const text = renderMetrics(this.#look(), isOpen)
    this.#known.set(isOpen, { text, at: time })
    return text
  }
}

function judge(response: ServerResponse, answer: HealthAnswer): void {
  end(response, answer.reason === '' ? 200 : 503, 'application/json', `${JSON.stringify(answer)}\n`)
}

function end(response: ServerResponse, code: number, type: string, body: string): void {
  response.writeHead(code, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) }).end(body)
}
