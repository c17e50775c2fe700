// A server of one protocol on a real transport, and plain `node:net` clients: shared by the tests of engines.

import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { kOpen } from '../../src/connection/symbols.ts'
import { type AnyConnection, Connection } from '../../src/connection.ts'
import { parseAddress } from '../../src/net/address.ts'
import { bindSocket } from '../../src/net/bound-socket.ts'
import type { AnyProtocol } from '../../src/protocol.ts'
import type { Transport } from '../../src/transport.ts'
import type { WorkerSettings } from '../../src/worker/settings.ts'
import { Worker } from '../../src/worker.ts'
import { until, within } from './until.ts'

/** Callbacks and limits of the server; messages are `any`, since each test has its own protocol. */
// biome-ignore lint/suspicious/noExplicitAny: one helper serves every protocol
export type ServerSettings = WorkerSettings<string, any>

export interface TestServer {
  readonly worker: Worker<string, unknown>
  /** Where it listens: `127.0.0.1:8888` or a path. */
  readonly endpoint: string
  readonly connections: AnyConnection[]
  /** Calls of `onError`, as `code message`. */
  readonly errors: string[]
  /** A connected client, destroyed at the end of the test. */
  connect(options?: { allowHalfOpen?: boolean; localAddress?: string; host?: string }): Promise<Client>
}

/** A client that collects what it receives. */
export class Client {
  readonly socket: net.Socket
  readonly chunks: Buffer[] = []
  hasEnded = false
  isClosed = false
  error: Error | null = null

  constructor(socket: net.Socket) {
    this.socket = socket
    socket.on('data', (chunk) => this.chunks.push(chunk))
    socket.on('end', () => {
      this.hasEnded = true
    })
    socket.on('error', (error) => {
      this.error = error
    })
    socket.on('close', () => {
      this.isClosed = true
    })
  }

  get received(): string {
    return Buffer.concat(this.chunks).toString()
  }

  /** Waits until exactly this text has been received. */
  async expect(text: string): Promise<void> {
    await until(() => this.received.length >= text.length || this.isClosed)
    if (this.received !== text)
      throw new Error(`expected ${JSON.stringify(text)}, got ${JSON.stringify(this.received)}`)
  }

  async closed(): Promise<void> {
    await until(() => this.isClosed)
  }
}

/** Runs `use` with a server on `address` (port 0, or a Unix path), then cleans up. */
export async function withServer(
  transport: Transport,
  protocol: AnyProtocol,
  settings: ServerSettings,
  use: (server: TestServer) => Promise<unknown>,
  address = 'tcp://127.0.0.1:0',
  limitMs = 60_000,
): Promise<void> {
  const bound = await bindSocket(parseAddress(address))
  const clients: Client[] = []
  const connections: AnyConnection[] = []
  const errors: string[] = []
  const { onError } = settings
  const worker = new Worker<string, unknown>({
    ...settings,
    onError: (connection, code, message, error) => {
      errors.push(`${code} ${message}`)
      return onError?.(connection, code, message, error)
    },
  })
  const source = { fd: bound.fd, handle: bound.handle, backlog: 1024, expected: bound.endpoint }
  const listener = await transport.listen(source, (socket) => {
    const connection: AnyConnection = new Connection(socket, protocol, worker)
    connections.push(connection)
    connection[kOpen]()
    return connection
  })
  const connect: TestServer['connect'] = async (options = {}) => {
    const socket = net.connect({ ...whereIs(bound.endpoint), ...options })
    const client = new Client(socket)
    clients.push(client)
    await within(5_000, new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject)))
    return client
  }
  try {
    await within(limitMs, use({ worker, endpoint: bound.endpoint, connections, errors, connect }))
  } finally {
    for (const { socket } of clients) socket.destroy()
    listener.close()
    worker.cutOff()
    bound.close()
  }
}

/**
 * Like `withServer`, on a Unix socket. Its kernel takes some 200 KB from a sender at once, not megabytes: what is sent
 * beyond that in one go is queued, however fast the client reads.
 */
export async function withUnixServer(
  transport: Transport,
  protocol: AnyProtocol,
  settings: ServerSettings,
  use: (server: TestServer) => Promise<unknown>,
): Promise<void> {
  await withPath((path) => withServer(transport, protocol, settings, use, `unix://${path}`))
}

export function whereIs(endpoint: string): { path: string } | { host: string; port: number } {
  const [, v6, v4, port] = /^(?:\[(.*)\]|([\d.]+)):(\d+)$/.exec(endpoint) ?? []
  const host = v6 ?? v4
  return host === undefined ? { path: endpoint } : { host, port: Number(port) }
}

/** Runs `use` with a path in a directory of its own. */
export async function withPath(use: (path: string) => unknown): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-'))
  try {
    await use(join(directory, 'app.sock'))
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
