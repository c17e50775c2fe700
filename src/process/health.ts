// What probes ask: `/healthz`, `/readyz` and `/metrics`, off unless an address is given. The master answers, since it alone
// knows the states of all processes, and from what it has been told already: no probe waits for a worker, and none can
// make it busy (a few connections, small heads, no bodies). It says how many, never who: no pid, no path, no reason of a
// crash. node:http costs 1.4 MiB, so it is loaded only where it is wanted.

import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { SystemError } from '../errors.ts'
import { log } from '../log.ts'
import { type Address, parseHttpAddress } from '../net/address.ts'
import { removeStaleSocket } from '../net/bound-socket.ts'
import type { GroupState } from './slot.ts'
import { HUNG_AFTER_MS } from './status.ts'

/** A probe has a connection for a moment; more than these are somebody else's. */
const MOST_CONNECTIONS = 64
const MOST_HEAD_BYTES = 8192
/** For a whole request to come, and for the next one on a connection that is kept. */
const REQUEST_TIMEOUT_MS = 5000

export interface GroupHealth {
  readonly name: string
  /** Processes that serve and were heard of lately. */
  readonly ready: number
  readonly minReady: number
  /** As declared. */
  readonly count: number
}

export interface HealthAnswer {
  readonly status: 'ok' | 'ready' | 'not ready'
  /** Empty when all is well. */
  readonly reason: string
  readonly state: ServerState
  readonly groups: readonly GroupHealth[]
}

export type ServerState = 'starting' | 'running' | 'stopping'

/** What is to be judged. */
export interface Seen {
  readonly state: ServerState
  readonly groups: readonly GroupState[]
}

/** Alive: the master answers, so it reconciles. What workers lack (a database, say) no restart of the server would bring. */
export function healthOf({ state, groups }: Seen): HealthAnswer {
  return { status: 'ok', reason: '', state, groups: groups.filter(({ isGone }) => !isGone).map(groupHealth) }
}

/** Ready: everything has been ready once, nobody asked for the end, and each group has `minReady` processes that serve. */
export function readinessOf({ state, groups }: Seen): HealthAnswer {
  const all = groups.filter(({ isGone }) => !isGone).map(groupHealth)
  const lacking = all.filter(({ ready, minReady }) => ready < minReady)
  const lacks = lacking.map(({ name, ready, minReady }) => `${name} has ${ready} ready, and needs ${minReady}`)
  const reason = state === 'running' ? lacks.join('; ') : `the server is ${state}`
  return { status: reason === '' ? 'ready' : 'not ready', reason, state, groups: all }
}

function groupHealth({ name, slots, blueprint }: GroupState): GroupHealth {
  const serving = slots.filter(({ current }) => current?.state === 'ready' && current.silentMs < HUNG_AFTER_MS)
  const { count, minReady } = blueprint.declaration
  return { name, ready: serving.length, minReady: Math.min(minReady, count), count }
}

export class HealthServer {
  readonly #look: () => Seen
  #server: Server | null = null
  #address = ''

  constructor(look: () => Seen) {
    this.#look = look
  }

  /** Listens there and no longer where it did; empty: nowhere. Rejects with a SystemError, and then nothing has changed. */
  async listen(address: string): Promise<void> {
    if (address === this.#address) return
    const server = address === '' ? null : await this.#open(parseHttpAddress(address))
    this.close()
    this.#server = server
    this.#address = address
  }

  close(): void {
    this.#server?.close()
    this.#server?.closeAllConnections()
    this.#server = null
    this.#address = ''
  }

  async #open({ host, port, path, transport }: Address): Promise<Server> {
    const { createServer } = await import('node:http')
    const limits = {
      maxHeaderSize: MOST_HEAD_BYTES,
      requestTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: REQUEST_TIMEOUT_MS,
    }
    const server = createServer(limits, (request, response) => this.#answer(request, response))
    server.maxConnections = MOST_CONNECTIONS
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
    return server
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { method, url = '' } = request
    const page = PAGES.get(url.split('?')[0] ?? '')
    response.setHeader('Cache-Control', 'no-store')
    if (page === undefined) return end(response, 404, 'text/plain', `${[...PAGES.keys()].join(' ')}\n`)
    if (method !== 'GET' && method !== 'HEAD') {
      response.setHeader('Allow', 'GET, HEAD')
      response.setHeader('Connection', 'close') // a body may follow, which nobody reads
      return end(response, 405, 'text/plain', 'GET or HEAD\n')
    }
    page(this.#look(), response)
  }
}

const PAGES = new Map<string, (seen: Seen, response: ServerResponse) => void>([
  ['/healthz', (seen, response) => judge(response, healthOf(seen))],
  ['/readyz', (seen, response) => judge(response, readinessOf(seen))],
])

function judge(response: ServerResponse, answer: HealthAnswer): void {
  end(response, answer.reason === '' ? 200 : 503, 'application/json', `${JSON.stringify(answer)}\n`)
}

function end(response: ServerResponse, code: number, type: string, body: string): void {
  response.writeHead(code, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) }).end(body)
}
