// The control socket: how every command except `start` talks to the master. One request and one answer per connection,
// each a line of JSON. After the answer to `events`, events follow, one per line, until the client leaves. The socket
// is 0600 inside a 0700 directory: a process that can connect may give commands. With the addon, the peer's uid is
// checked too, so that loosened permissions let no other user in.

import { once } from 'node:events'
import { linkSync, lstatSync, renameSync, rmSync, unlinkSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { addon } from '../addon.ts'
import { codeOf, messageOf } from '../errors.ts'
import { log } from '../log.ts'
import { now } from '../loop/clock.ts'
import { isUnixPath } from '../net/address.ts'
import { fileId, removeStaleSocket } from '../net/bound-socket.ts'
import { descriptorOf } from '../net/descriptors.ts'
import { Channel } from './channel.ts'
import { CommandError, Exit } from './exit-codes.ts'
import type { Identity } from './identity.ts'
import type { StartOptions } from './messages.ts'
import type { Comparison } from './operations/diff.ts'
import type { ReloadOutcome } from './operations/receipts.ts'
import type { Scale } from './operations/regroup.ts'
import { controlPath } from './run-directory.ts'
import type { Program } from './spawn.ts'
import { type EventLine, EventStream } from './status/event-stream.ts'
import type { Events } from './status/events.ts'
import type { ConnectionPage, Cursor, Status } from './status/status.ts'
import type { UpgradeOutcome } from './upgrade/upgrade.ts'

export type Request = Asked & {
  /** The module that the command line names, absolute: a server of other modules refuses. Absent if it names none. */
  readonly module?: string | undefined
}
type Asked =
  | { readonly command: 'status' | 'ping' | 'diff' }
  /**
   * Groups by name or address; none means all. A client that does not wait is answered at once and receives no outcome.
   */
  | {
      readonly command: 'reload'
      readonly names?: readonly string[]
      readonly isWaiting?: boolean
      /** How long one process of each group is watched before the others follow. */
      readonly canaryMs?: number
    }
  | ({ readonly command: 'stop'; readonly names?: readonly string[] } & Leave)
  | ({ readonly command: 'restart'; readonly names: readonly string[] } & Leave)
  | { readonly command: 'start'; readonly names: readonly string[] }
  | { readonly command: 'scale'; readonly name: string; readonly scale: Scale }
  | { readonly command: 'connections'; readonly cursor: Cursor | undefined }
  | ({ readonly command: 'upgrade' } & Program)
  /** Up to `past` earlier events, then each new one as it happens. */
  | { readonly command: 'events'; readonly past: number }
/** How long processes may take to leave. */
export interface Leave {
  /** Use each group's own window instead of the server's `stopTimeout`. */
  readonly isGraceful: boolean
  /** Overrides both windows, ms. */
  readonly timeoutMs?: number | null
}

export type Answer = Done | Refusal

/** Why a request failed. `exitCode` and `code` are set where they say more than `failure`. */
interface Refusal {
  readonly ok: false
  readonly message: string
  readonly exitCode?: Exit
  readonly code?: string
  readonly next?: string
}

export function refusedBy({ exitCode = Exit.Failure, message, code, next }: Refusal): CommandError {
  return new CommandError(exitCode, message, { code, next })
}

/** The code of a refusal by a server of other modules than the one that a request names. */
export const OTHER_MODULE = 'ERR_OTHER_MODULE'

/** The answer to a request that succeeded, and which process gave it. */
export interface Done extends Identity {
  readonly ok: true
  readonly isDaemon: boolean
  readonly status?: Status
  readonly page?: ConnectionPage
  /** Absolute; empty when a terminal is the log. */
  readonly logFile?: string
  readonly comparison?: Comparison
  /** Result of an operation that takes time. */
  readonly outcome?: ReloadOutcome
  readonly upgrade?: UpgradeOutcome
  /** How long a stop may take before workers are killed. */
  readonly stopTimeoutMs: number
  /** To `ping`: how it runs, for a `restart`. */
  readonly running?: Running
}

/** How a server runs. */
export interface Running {
  readonly options: StartOptions
  readonly uid: number
  /** Names and addresses of its groups. */
  readonly groups: readonly string[]
}

/** A client that sends no request, or does not take its answer, is disconnected after this time. */
const REQUEST_TIMEOUT_MS = 5000
/** A client beyond this number is refused: so many followers can only be a mistake. */
const MOST_FOLLOWERS = 64
/** How long a replaced master waits for its last clients to take their answers. */
const SETTLE_MS = 2000
const LOOK_EVERY_MS = 10

export class ControlServer {
  readonly #server: net.Server
  readonly #runDir: string
  /** Path of our socket: beside the official one while another master is in charge. */
  #path: string
  readonly #bound: string
  readonly #events: Events
  readonly #followers = new Set<Channel<Request, Answer>>()
  #file = ''
  /** Number of connections, and of requests without an answer yet. */
  #open = 0
  #asked = 0

  /** @param isSecond another master has the control socket now */
  constructor(runDir: string, events: Events, answer: (request: Request) => Promise<Answer>, isSecond = false) {
    this.#runDir = runDir
    this.#bound = isSecond ? asidePath(runDir, process.pid) : controlPath(runDir)
    this.#path = this.#bound
    this.#events = events
    this.#server = net.createServer((socket) => {
      this.#open++
      socket.once('close', () => this.#open--)
      const giveUp = () => socket.destroy()
      socket.setTimeout(REQUEST_TIMEOUT_MS, giveUp)
      const channel = new Channel<Request, Answer>(socket)
      const uid = strangerAt(socket)
      channel.onMessage = async (request) => {
        socket.setTimeout(0)
        channel.onMessage = null
        this.#asked++
        const said = uid === null ? await answer(request).catch(refusal) : denial(uid)
        this.#asked--
        if (said.ok && request.command === 'events') {
          socket.off('timeout', giveUp)
          this.#follow(socket, channel, said, request.past)
        } else {
          channel.send(said)
          channel.end()
          socket.setTimeout(REQUEST_TIMEOUT_MS) // time for the client to take the answer
        }
      }
    })
  }

  #follow(socket: net.Socket, channel: Channel<Request, Answer>, said: Done, past: number): void {
    if (this.#followers.size >= MOST_FOLLOWERS) {
      channel.send({ ok: false, message: `${MOST_FOLLOWERS} clients follow the events already` })
      return channel.end()
    }
    this.#followers.add(channel)
    channel.send(said)
    const stream = new EventStream(socket)
    const wanted = typeof past === 'number' ? past : 0 // client input: not trusted
    for (const event of this.#events.past(wanted)) stream.tell(event)
    const leave = this.#events.follow((event) => stream.tell(event))
    channel.onClose = () => {
      this.#followers.delete(channel)
      leave()
    }
  }

  /** Rejects with EADDRINUSE when a process answers there, and with a CommandError when the file is not a socket. */
  async listen(): Promise<void> {
    await removeStaleSocket(this.#path)
    const found = lstatSync(this.#path, { throwIfNoEntry: false })
    if (found?.isSocket() === false)
      throw new CommandError(Exit.Failure, `${this.#path} is there, and is no socket`, {
        next: `it is not ours: look at it (ls -ld ${this.#path}) and remove it, or name another folder with --run-dir`,
      })
    const umask = process.umask(0o177)
    this.#server.listen(this.#path) // binds before it returns
    process.umask(umask)
    await once(this.#server, 'listening')
    this.#server.off('error', tell).on('error', tell)
    this.#file = fileId(this.#path)
  }

  /** Whether a client that connects to the path reaches this process. */
  get isThere(): boolean {
    return fileId(this.#path) === this.#file
  }

  /** Binds the socket again if its file has gone. Open connections stay. Rejects as `listen` does. */
  async renew(): Promise<void> {
    if (this.isThere) return
    this.#server.close()
    await this.listen()
  }

  /**
   * Atomically replaces this socket's file by that of another process: the path never disappears. Clients that
   * connected earlier are answered here.
   */
  giveWay(pid: number): void {
    const aside = asidePath(this.#runDir, process.pid)
    linkSync(this.#path, aside)
    this.#path = aside
    renameSync(asidePath(this.#runDir, pid), controlPath(this.#runDir))
  }

  /**
   * Takes the official path from another process: one that has given way or, if its pid is passed, one that has died.
   */
  take(gone: number | null = null): void {
    const path = controlPath(this.#runDir)
    if (gone !== null) rmSync(asidePath(this.#runDir, gone), { force: true })
    if (fileId(path) !== this.#file) renameSync(this.#path, path)
    this.#path = path
    rmSync(asidePath(this.#runDir, process.pid), { force: true }) // a second name, left if `giveWay` failed half-way
  }

  /** Resolves when every request has its answer and other connections have closed or had SETTLE_MS to do so. */
  async settled(): Promise<void> {
    for (const follower of this.#followers) follower.end() // the new master reports events from now on
    const late = now() + SETTLE_MS
    do await sleep(LOOK_EVERY_MS)
    while (this.#asked > 0 || (this.#open > 0 && now() < late))
  }

  /** Accepts no more requests; removes the socket file if it is still ours. */
  close(): void {
    if (this.#file === '' || fileId(this.#path) !== this.#file) return // process exit closes it
    // Libuv unlinks this name, whoever owns the file.
    if (['', this.#file].includes(fileId(this.#bound))) this.#server.close()
    if (fileId(this.#path) === this.#file) unlinkSync(this.#path)
  }
}

/** Logs an accept(2) error: the next connection may succeed. */
function tell(error: Error): void {
  log(`control: ${messageOf(error)}`)
}

/** A temporary name for a second socket. No longer than `control.sock`, whose path has passed the length check. */
function asidePath(runDir: string, pid: number): string {
  return join(runDir, `c.${pid}`)
}

/** Uid of the peer if it is neither ours nor root. Null otherwise, and where it cannot be determined. */
function strangerAt(socket: net.Socket): number | null {
  const fd = descriptorOf(socket) // in the same loop turn in which it was accepted
  const { sys } = addon()
  if (sys === null || fd < 0) return null
  try {
    const { uid } = sys.peerCredentials(fd)
    return uid === 0 || uid === process.geteuid?.() ? null : uid
  } catch {
    return null // ENOTCONN (the peer has gone), or not on Linux
  }
}

function denial(uid: number): Answer {
  log(`control: a process of uid ${uid} asked, whom nothing here is for: see the rights of the run directory`)
  return { ok: false, message: `uid ${uid} may not command this server` }
}

/** Turns any failure into an answer: no client input may stop the server. */
function refusal(error: unknown): Answer {
  if (error instanceof CommandError) {
    const { exitCode, code, next, message } = error
    return { ok: false, message, exitCode, code, next }
  }
  return { ok: false, message: `this request cannot be answered: ${messageOf(error)}` }
}

/** Large, since a thousand crashing processes report a long text each. */
const MAX_ANSWER_BYTES = 64 * 1_048_576

/** No master is there, or it just ended: an ending master resets connections that still wait to be accepted. */
const ABSENT = new Set(['ENOENT', 'ENOTDIR', 'ECONNREFUSED', 'ECONNRESET', 'EPIPE'])

/**
 * Suspended means: not running in this many checks in a row, this far apart. Under strace a process stops at every
 * system call and still answers.
 */
const LOOKS = 3
const LOOK_AFTER_MS = 50

/**
 * Asks the master of a run directory, with the rights of user `uid`, so that a symbolic link of that user cannot lead
 * root to a socket the user could not reach. Null when no master answers there, or it ends before it has answered.
 * Gives up early while `isSuspended` returns true.
 */
export async function ask(
  runDir: string,
  request: Request,
  timeoutMs: number,
  uid = process.geteuid?.() ?? 0,
  isSuspended = (): boolean => false,
): Promise<Answer | null> {
  if (!isUnixPath(controlPath(runDir))) return null // no server: `start` refuses such a path
  return new Promise((resolve, reject) => {
    const socket = connectAs(uid, controlPath(runDir))
    const channel = new Channel<Answer, Request>(socket, MAX_ANSWER_BYTES)
    let looks = 0
    const finish = () => {
      clearTimeout(late)
      clearInterval(looking)
      socket.destroy()
    }
    const giveUp = () => {
      finish()
      const limit = `within ${timeoutMs / 1000} s`
      reject(new CommandError(Exit.Timeout, `the master did not answer '${request.command}' ${limit}`))
    }
    const late = timeoutMs === Number.POSITIVE_INFINITY ? undefined : setTimeout(giveUp, timeoutMs)
    const looking = setInterval(() => {
      looks = isSuspended() ? looks + 1 : 0
      if (looks === LOOKS) giveUp()
    }, LOOK_AFTER_MS)
    const settle = (answer: Answer | null) => {
      finish()
      resolve(answer)
    }
    socket.once('error', (error) => {
      if (ABSENT.has(codeOf(error))) return settle(null)
      finish()
      reject(new CommandError(Exit.Failure, `${controlPath(runDir)}: ${error.message}`, { cause: error }))
    })
    channel.onMessage = settle
    channel.onClose = () => {
      if (!channel.isOverrun) return settle(null)
      finish()
      const limit = `${MAX_ANSWER_BYTES / 1_048_576} MiB`
      reject(new CommandError(Exit.Failure, `the answer of the master to '${request.command}' is longer than ${limit}`))
    }
    channel.send(request)
  })
}

/** A stream of events being followed. */
interface Followed {
  /** The first answer; null when there is no master. */
  readonly answer: Answer | null
  /** Resolves when the stream has ended, because the master ended or `close` was called. */
  readonly ended: Promise<void>
  close(): void
}

/**
 * Follows the events of the master of a run directory; `onEvent` is called for each, up to `past` earlier ones first.
 */
export async function follow(
  runDir: string,
  past: number,
  onEvent: (event: EventLine['event']) => void,
  uid = process.geteuid?.() ?? 0,
): Promise<Followed> {
  const socket = connectAs(uid, controlPath(runDir))
  const channel = new Channel<Answer | EventLine, Request>(socket)
  const ended = new Promise<void>((resolve) => {
    channel.onClose = resolve
  })
  const first = new Promise<Answer>((resolve) => {
    channel.onMessage = (message) => {
      if ('event' in message) onEvent(message.event)
      else resolve(message)
    }
  })
  channel.send({ command: 'events', past })
  const answer = await Promise.race([first, ended.then(() => null), sleep(FOLLOW_TIMEOUT_MS, null, { ref: false })])
  if (answer === null) socket.destroy()
  return { answer, ended, close: () => socket.destroy() }
}

const FOLLOW_TIMEOUT_MS = 5000

/** Connects with the rights of `uid`. For a path, connect(2) has run by the time `net.connect` returns. */
function connectAs(uid: number, path: string): net.Socket {
  const own = process.geteuid?.() ?? 0
  if (uid === own) return net.connect(path)
  process.seteuid?.(uid)
  try {
    return net.connect(path)
  } finally {
    process.seteuid?.(own)
  }
}
