// The keeper: a process that only keeps the data workers share, so that no worker's death loses it. It runs no user
// code and never interprets a value. The master starts it on first use, and connects workers to it.

import { existsSync } from 'node:fs'
import net from 'node:net'
import { codeOf, messageOf, ProtocolError, UsageError } from '../errors.ts'
import { guardOutput, LimitedLog, log } from '../log.ts'
import { Scheduler } from '../loop/scheduler.ts'
import { removeStaleSocket } from '../net/bound-socket.ts'
import { nothing } from '../nothing.ts'
import { isEqual } from '../signing.ts'
import { checkKey, checkName, checkStep, checkTtl, MAX_VALUE_BYTES } from './limits.ts'
import { Store, type Value } from './store.ts'
import { type Answer, encodeFrame, FrameReader, meantBy, type Plain, plainOf, type Request } from './wire.ts'

/** Limit of a frame from a worker: the largest value, and a head. */
const MAX_FRAME_BYTES = MAX_VALUE_BYTES + 65_536
/**
 * Limit of what may wait for a worker that does not read. Beyond it the worker has missed something, and learns that
 * when its connection ends.
 */
const MAX_UNSENT_BYTES = 64 * 1_048_576
/** Limit of unread answers: further requests are carried out when the worker has read them. */
const MOST_ANSWERED_BYTES = 4 * 1_048_576

const strangers = new LimitedLog()

interface KeeperOptions {
  readonly path: string
  /** A peer that does not begin with this secret is not ours. */
  readonly secret: string
}

/** Starts listening; the master's umask and the folder's permissions keep others out. Resolves when it listens. */
export async function runKeeper({ path, secret }: KeeperOptions): Promise<Keeper> {
  guardOutput()
  const keeper = new Keeper(secret)
  await keeper.listen(path)
  return keeper
}

export class Keeper {
  readonly #secret: string
  readonly #store = new Store(new Scheduler({ keepsAlive: false }))
  readonly #clients = new Set<Client>()
  #server = this.#newServer()
  /** Called when no worker is left that could use the data, once the master is known to be gone. */
  onDeserted: (() => void) | null = null

  constructor(secret: string) {
    this.#secret = secret
  }

  async listen(path: string): Promise<void> {
    await removeStaleSocket(path)
    const umask = process.umask(0o177)
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(path, resolve)
      process.umask(umask)
    })
  }

  /** Listens again if somebody has removed the file of the socket. Connections stay. */
  async renew(path: string): Promise<void> {
    if (existsSync(path)) return
    this.#server.close() // first: it removes the file at its path
    this.#server = this.#newServer()
    await this.listen(path)
  }

  /** Accepts no more connections. */
  close(): void {
    this.#server.close()
  }

  get isDeserted(): boolean {
    return this.#clients.size === 0
  }

  #newServer(): net.Server {
    return net.createServer((socket) => this.#accept(socket))
  }

  #accept(socket: net.Socket): void {
    const client = new Client(socket, this.#store, this.#secret)
    this.#clients.add(client)
    socket.on('close', () => {
      client.end()
      this.#clients.delete(client)
      if (this.isDeserted) this.onDeserted?.()
    })
  }
}

interface Asked {
  readonly request: Request
  readonly value: Buffer
}

/** The connection of one worker. */
class Client {
  readonly #socket: net.Socket
  readonly #store: Store
  readonly #secret: string
  readonly #watches = new Map<number, () => void>()
  /** Requests not carried out yet: at most what one read brings. */
  #waiting: Asked[] = []
  #isKnown = false
  #isCorked = false

  constructor(socket: net.Socket, store: Store, secret: string) {
    this.#socket = socket
    this.#store = store
    this.#secret = secret
    const reader = new FrameReader<Request>(MAX_FRAME_BYTES, (request, value) => this.#receive(request, value))
    socket.on('error', nothing) // 'close' follows
    socket.on('data', (bytes: Buffer) => this.#guard(() => reader.read(bytes)))
    socket.on('drain', () => this.#guard(() => this.#goOn()))
  }

  #guard(task: () => void): void {
    try {
      task()
    } catch (error) {
      strangers.log(`keeper: a connection was refused: ${messageOf(error)}`)
      this.#socket.destroy()
    }
  }

  #isFull(): boolean {
    return this.#socket.writableLength > MOST_ANSWERED_BYTES
  }

  #receive(request: Request, value: Buffer): void {
    if (this.#waiting.length === 0 && !this.#isFull()) return this.#take(request, value)
    this.#waiting.push({ request, value: Buffer.from(value) })
    this.#socket.pause()
  }

  #goOn(): void {
    const { length } = this.#waiting
    if (length === 0) return
    let taken = 0
    while (taken < length && !this.#isFull()) {
      const { request, value } = this.#waiting[taken++] as Asked
      this.#take(request, value)
    }
    this.#waiting = this.#waiting.slice(taken)
    if (this.#waiting.length === 0) this.#socket.resume()
  }

  end(): void {
    for (const stop of this.#watches.values()) stop()
    this.#watches.clear()
  }

  #take(request: Request, value: Buffer): void {
    if (this.#socket.destroyed) return
    if (!this.#isKnown) return this.#meet(request)
    const [id] = request
    try {
      this.#carryOut(request, value)
    } catch (error) {
      if (!(error instanceof UsageError)) throw error
      this.#send([id, 'refused', codeOf(error), messageOf(error)])
    }
  }

  #meet(request: Request): void {
    const [, what, secret] = request
    if (what !== 'hello' || !isEqual(String(secret), this.#secret))
      throw new ProtocolError('ERR_STRANGER', 'it did not know the secret')
    this.#isKnown = true
  }

  #carryOut(request: Request, bytes: Buffer): void {
    const [id, what] = request
    if (what === 'unwatch') return this.#unwatch(id)
    if (what === 'hello') throw new ProtocolError('ERR_BAD_FRAME', 'it has said hello already')
    const map = checkName(request[2])
    if (what === 'size') return this.#ok(id, this.#store.size(map))
    if (what === 'keys') return this.#ok(id, this.#store.keys(map))
    if (what === 'clear') return this.#ok(id, this.#store.clear(map))
    if (what === 'watch') return this.#watch(id, map, String(request[3]))
    const key = checkKey(request[3])
    if (what === 'get') return this.#found(id, true, this.#store.get(map, key))
    if (what === 'delete') return this.#ok(id, this.#store.delete(map, key))
    if (what === 'increment')
      return this.#ok(id, this.#store.increment(map, key, checkStep(request[4]), checkTtl(request[5])))
    if (what !== 'set') throw new ProtocolError('ERR_BAD_FRAME', `it asked for ${JSON.stringify(what)}`)
    // The bytes belong to the reader.
    const value = request[4] === null ? Uint8Array.prototype.slice.call(bytes) : checkStep(meantBy(request[4]))
    const ttlMs = request[5] === null ? null : checkTtl(request[5])
    const { isDone, entry } = this.#store.set(map, key, value, ttlMs, request[6])
    this.#ok(id, isDone, entry?.version)
  }

  #watch(id: number, map: string, key: string): void {
    this.#unwatch(id)
    const stop = this.#store.watch(map, key, (type, changed, value) => {
      this.#send([id, 'event', type, changed, headOf(value)], bytesOf(value))
      this.#limit()
    })
    this.#watches.set(id, stop)
    this.#ok(id, true)
  }

  #unwatch(id: number): void {
    this.#watches.get(id)?.()
    this.#watches.delete(id)
  }

  #ok(id: number, result: unknown, version = 0): void {
    this.#send([id, 'ok', result, null, version])
  }

  #found(id: number, result: unknown, entry: ReturnType<Store['get']>): void {
    const value = entry?.value ?? null
    this.#send([id, 'ok', result, headOf(value), entry?.version ?? 0], bytesOf(value))
  }

  /** Answers of one turn leave together. */
  #send(answer: Answer, value?: Uint8Array): void {
    const socket = this.#socket
    if (socket.destroyed) return
    if (!this.#isCorked) {
      this.#isCorked = true
      socket.cork()
      setImmediate(() => {
        this.#isCorked = false
        socket.uncork()
      })
    }
    socket.write(encodeFrame(answer, value))
  }

  /** Ends a connection that reads too slowly: changes are sent whether it reads or not. */
  #limit(): void {
    if (this.#socket.destroyed || this.#socket.writableLength <= MAX_UNSENT_BYTES) return
    log('keeper: a worker does not read the changes that it watches: its connection ends')
    this.#socket.destroy()
  }
}

function headOf(value: Value | null): Plain {
  return typeof value === 'number' ? plainOf(value) : null
}

function bytesOf(value: Value | null): Uint8Array | undefined {
  return value === null || typeof value === 'number' ? undefined : value
}
