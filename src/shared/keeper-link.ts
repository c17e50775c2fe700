// A worker's connection to the keeper: one per process, made at the first call, and again after it has ended. Calls in
// progress when it ends are reported as such; watchers are told that something may have been missed.

import net from 'node:net'
import { codeOf, messageOf, PeerError, UsageError } from '../errors.ts'
import { log } from '../log.ts'
import { Backoff } from '../loop/backoff.ts'
import { now } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import { nothing } from '../nothing.ts'
import { registry } from '../process/group.ts'
import { type Answer, type ChangeType, encodeFrame, FrameReader, type Plain, type Request } from './wire.ts'

/** `keys()` of a large map has the longest answer. */
const MAX_ANSWER_BYTES = 1024 * 1_048_576
/** Limit of what may wait for a slow keeper. */
const MAX_UNSENT_BYTES = 64 * 1_048_576

export interface Reply {
  readonly result: unknown
  readonly plain: Plain
  /** Owned by the reply. Empty when the value is `plain`. */
  readonly bytes: Uint8Array
  /** 0: no value. */
  readonly version: number
}

/** A watcher. `lost`: the connection has ended, so something may have been missed; watching continues. */
type Listener = (type: ChangeType | 'lost', key: string, plain: Plain, bytes: Uint8Array) => void

interface Waiting {
  /** Until the keeper may have seen it, it is certain that nothing was done. */
  isSent: boolean
  readonly frame: Buffer
  resolve(reply: Reply): void
  reject(error: Error): void
}

interface Watch {
  readonly map: string
  readonly key: string
  readonly listener: Listener
}

type Rest<R> = R extends readonly [number, ...infer Others] ? Readonly<Others> : never

class KeeperLink {
  readonly #waiting = new Map<number, Waiting>()
  readonly #watches = new Map<number, Watch>()
  readonly #backoff = new Backoff()
  #socket: net.Socket | null = null
  #isConnecting = false
  /** 0 while there is no connection. */
  #connectedAt = 0
  #lastId = 0
  #unsentBytes = 0
  #isCorked = false

  /**
   * Calls the keeper. Rejects with a UsageError from the keeper, or a PeerError: ERR_KEEPER_LOST, which says whether
   * the call may have been carried out, or ERR_QUEUE_FULL.
   */
  call(what: Rest<Request>, value?: Uint8Array): Promise<Reply> {
    if (registry().requestKeeper === null) return Promise.reject(notAWorker())
    const id = ++this.#lastId
    const frame = encodeFrame([id, ...what] as unknown as Request, value)
    if (this.#unsentBytes + (this.#socket?.writableLength ?? 0) + frame.length > MAX_UNSENT_BYTES)
      return Promise.reject(
        new PeerError('ERR_QUEUE_FULL', 'too much waits for the keeper: await what you ask for', false),
      )
    return new Promise((resolve, reject) => {
      const waiting = { isSent: false, frame, resolve, reject }
      this.#waiting.set(id, waiting)
      if (this.#socket !== null) return this.#send(this.#socket, waiting)
      this.#unsentBytes += frame.length
      void this.#connect()
    })
  }

  /** Watches from now on, across lost connections, until the returned function is called. */
  watch(map: string, key: string, listener: Listener): () => void {
    if (registry().requestKeeper === null) throw notAWorker()
    const id = ++this.#lastId
    const watch = { map, key, listener }
    this.#watches.set(id, watch)
    if (this.#socket !== null) this.#write(this.#socket, encodeFrame([id, 'watch', map, key]))
    else void this.#connect()
    return () => {
      if (this.#watches.delete(id) && this.#socket !== null) this.#write(this.#socket, encodeFrame([id, 'unwatch']))
    }
  }

  async #connect(): Promise<void> {
    if (this.#isConnecting) return
    this.#isConnecting = true
    try {
      const given = await registry().requestKeeper?.()
      if (!(given?.handle instanceof net.Socket)) throw new Error('no descriptor is left for it')
      this.#begin(given.handle)
    } catch (error) {
      this.#lose(`the keeper of shared data cannot be reached: ${messageOf(error)}`)
    } finally {
      this.#isConnecting = false
    }
  }

  /** `socket`: a net.Socket that the master has connected and introduced. */
  #begin(socket: net.Socket): void {
    this.#socket = socket
    this.#connectedAt = now()
    const reader = new FrameReader<Answer>(MAX_ANSWER_BYTES, (answer, value) => this.#take(answer, value))
    socket.on('data', (bytes: Buffer) => {
      try {
        reader.read(bytes)
      } catch (error) {
        if (codeOf(error) !== 'ERR_BAD_FRAME') throw error // from a listener of the user
        log(`the keeper said ${messageOf(error)}`)
        socket.destroy()
      }
    })
    socket.on('error', nothing) // 'close' follows
    socket.on('close', () => {
      this.#socket = null
      this.#lose('the connection to the keeper of shared data has ended')
    })
    // Watches first: they must see everything that is done from now on.
    for (const [id, { map, key }] of this.#watches) this.#write(socket, encodeFrame([id, 'watch', map, key]))
    for (const waiting of this.#waiting.values()) this.#send(socket, waiting)
    this.#unsentBytes = 0
  }

  #send(socket: net.Socket, waiting: Waiting): void {
    waiting.isSent = true
    this.#write(socket, waiting.frame)
  }

  /** Writes of one turn leave together. */
  #write(socket: net.Socket, frame: Buffer): void {
    if (!this.#isCorked) {
      this.#isCorked = true
      socket.cork()
      process.nextTick(() => {
        this.#isCorked = false
        socket.uncork()
      })
    }
    socket.write(frame)
  }

  #take(answer: Answer, value: Buffer): void {
    const [id, what] = answer
    if (what === 'event') return this.#watches.get(id)?.listener(answer[2], answer[3], answer[4], ownBytes(value))
    const waiting = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (what === 'refused') waiting?.reject(new UsageError(answer[2], answer[3]))
    else waiting?.resolve({ result: answer[2], plain: answer[3], bytes: ownBytes(value), version: answer[4] })
  }

  /** The connection has ended, or could not be made. */
  #lose(why: string): void {
    const aliveMs = this.#connectedAt === 0 ? 0 : now() - this.#connectedAt
    this.#connectedAt = 0
    this.#unsentBytes = 0
    const all = [...this.#waiting.values()]
    this.#waiting.clear()
    for (const { isSent, reject } of all) reject(new PeerError('ERR_KEEPER_LOST', why, isSent))
    if (this.#watches.size === 0) return
    for (const { listener } of this.#watches.values()) listener('lost', '', null, NOTHING)
    deadlines.after(this.#backoff.next(aliveMs), () => {
      if (this.#socket === null && this.#watches.size > 0) void this.#connect()
    })
  }
}

/** The link of this process. */
export const keeperLink = new KeeperLink()

const NOTHING = new Uint8Array()

/** What was read belongs to the socket, and the value is decoded later. */
function ownBytes(value: Buffer): Uint8Array {
  return value.length === 0 ? NOTHING : Uint8Array.prototype.slice.call(value)
}

function notAWorker(): UsageError {
  return new UsageError('ERR_NOT_A_WORKER', 'shared data is for worker processes: use it from onWorkerStart on')
}
