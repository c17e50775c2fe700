// The control socket: how every command but `start` talks to the master. One request a connection, one answer, both a
// line of JSON; after the answer to `events` they follow, each a line, for as long as the client stays. The socket is 0600
// inside a 0700 directory: who can connect may command. With the addon the kernel is asked, too: rights that somebody has
// loosened let nobody else in.

import { once } from 'node:events'
import { linkSync, lstatSync, renameSync, rmSync, unlinkSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { addon } from '../addon.ts'
import { codeOf, messageOf } from '../errors.ts'
import { log } from '../log.ts'
import { now } from '../loop/clock.ts'
import { isUnixPath } from '../net/address.ts'
import { fileId, removeStaleSocket } from '../net/bound-socket.ts'
import { Channel } from './channel.ts'
import { CommandError, Exit } from './exit-codes.ts'
import type { Identity } from './identity.ts'
import type { Comparison } from './operations/diff.ts'
import type { ReloadOutcome } from './operations/receipts.ts'
import type { Scale } from './operations/regroup.ts'
import { controlPath } from './run-directory.ts'
import type { Program } from './spawn.ts'
import { type EventLine, EventStream } from './status/event-stream.ts'
import type { Events } from './status/events.ts'
import type { ConnectionPage, Cursor, Status } from './status/status.ts'
import type { UpgradeOutcome } from './upgrade/upgrade.ts'

export type Request =
  | { readonly command: 'status' | 'ping' | 'diff' }
  /** Groups by name or address; none: all. Who does not wait is answered at once, and not told how it goes. */
  | {
      readonly command: 'reload'
      readonly names?: readonly string[]
      readonly isWaiting?: boolean
      /** One process of each group is watched for so long before the others follow. */
      readonly canaryMs?: number
    }
  | ({ readonly command: 'stop'; readonly names?: readonly string[] } & Leave)
  | ({ readonly command: 'restart'; readonly names: readonly string[] } & Leave)
  | { readonly command: 'start'; readonly names: readonly string[] }
  | { readonly command: 'scale'; readonly name: string; readonly scale: Scale }
  | { readonly command: 'connections'; readonly cursor: Cursor | undefined }
  | ({ readonly command: 'upgrade' } & Program)
  /** Those that were, up to `past` of them, and from then on each as it happens. */
  | { readonly command: 'events'; readonly past: number }
/** How long processes may take to leave. */
export interface Leave {
  /** As long as their group says, instead of the server's `stopTimeout`. */
  readonly isGraceful: boolean
  /** Instead of either, ms. */
  readonly timeoutMs?: number | null
}

export type Answer = Done | Refusal

/** Why not; a number for scripts and a code for programs where they are more exact than `failure`. */
export interface Refusal {
  readonly ok: false
  readonly message: string
  readonly exitCode?: Exit
  readonly code?: string
  readonly next?: string
}

/** Who answered, and what. */
export interface Done extends Identity {
  readonly ok: true
  readonly isDaemon: boolean
  readonly status?: Status
  readonly page?: ConnectionPage
  /** Absolute; empty when its terminal is the log. */
  readonly logFile?: string
  readonly comparison?: Comparison
  /** Of what takes its time. */
  readonly outcome?: ReloadOutcome
  readonly upgrade?: UpgradeOutcome
  /** How long a stop may take before workers are killed. */
  readonly stopTimeoutMs: number
}

/** A client that says nothing, or does not go, is let go after this. */
const REQUEST_TIMEOUT_MS = 5000
/** More than this many follow the events by mistake. */
const MOST_FOLLOWERS = 64
/** For the last answers of a master that another one has replaced. */
const SETTLE_MS = 2000
const LOOK_EVERY_MS = 10

export class ControlServer {
  readonly #server: net.Server
  readonly #runDir: string
  /** Where its socket is: beside the other one, while another master is in charge. */
  #path: string
  readonly #bound: string
  readonly #events: Events
  readonly #followers = new Set<Channel<Request, Answer>>()
  #file = ''
  /** Connections, and requests that have no answer yet. */
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
          socket.setTimeout(REQUEST_TIMEOUT_MS) // for the answer to be taken
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
    const wanted = typeof past === 'number' ? past : 0 // it is what a client has sent
    for (const event of this.#events.past(wanted)) stream.tell(event)
    const leave = this.#events.follow((event) => stream.tell(event))
    channel.onClose = () => {
      this.#followers.delete(channel)
      leave()
    }
  }

  /** Rejects with EADDRINUSE when somebody answers there, with a CommandError when it is no socket. */
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

  /** Who connects to its path reaches this process. */
  get isThere(): boolean {
    return fileId(this.#path) === this.#file
  }

  /** Its socket has lost its name, and gets one again. Who is connected stays. Rejects as `listen` does. */
  async renew(): Promise<void> {
    if (this.isThere) return
    this.#server.close()
    await this.listen()
  }

  /**
   * Puts the socket of another process in the place of this one: at no moment there is none. Who has connected before is
   * answered here.
   */
  giveWay(pid: number): void {
    const aside = asidePath(this.#runDir, process.pid)
    linkSync(this.#path, aside)
    this.#path = aside
    renameSync(asidePath(this.#runDir, pid), controlPath(this.#runDir))
  }

  /** Takes the place of another process, which has given way, or with its pid, which is gone. */
  take(gone: number | null = null): void {
    const path = controlPath(this.#runDir)
    if (gone !== null) rmSync(asidePath(this.#runDir, gone), { force: true })
    if (fileId(path) !== this.#file) renameSync(this.#path, path)
    this.#path = path
    rmSync(asidePath(this.#runDir, process.pid), { force: true }) // a second name, if `giveWay` came half-way
  }

  /** Who waits for an answer has it, and whoever else is there has had his time. */
  async settled(): Promise<void> {
    for (const follower of this.#followers) follower.end() // what happens from now on, another master tells
    const late = now() + SETTLE_MS
    do await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS))
    while (this.#asked > 0 || (this.#open > 0 && now() < late))
  }

  /** Takes no more requests; removes the socket if it is still ours. */
  close(): void {
    if (this.#file === '' || fileId(this.#path) !== this.#file) return // the end of this process closes it
    if (['', this.#file].includes(fileId(this.#bound))) this.#server.close() // libuv unlinks that by name, whosever it is
    if (fileId(this.#path) === this.#file) unlinkSync(this.#path)
  }
}

/** Not longer than `control.sock`, whose path has been found short enough. */
/** Of accept(2): the next one may come through. */
function tell(error: Error): void {
  log(`control: ${messageOf(error)}`)
}

function asidePath(runDir: string, pid: number): string {
  return join(runDir, `c.${pid}`)
}

/** The user at the other end, where that is neither ours nor root. Null also where nobody can tell. */
function strangerAt(socket: net.Socket): number | null {
  // No public name. The descriptor is only looked at, in the turn of the loop in which it was accepted.
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd ?? -1
  const { sys } = addon()
  if (sys === null || fd < 0) return null
  try {
    const { uid } = sys.peerCredentials(fd)
    return uid === 0 || uid === process.geteuid?.() ? null : uid
  } catch {
    return null // ENOTCONN, not on Linux: it is gone already
  }
}

function denial(uid: number): Answer {
  log(`control: a process of uid ${uid} asked, whom nothing here is for: see the rights of the run directory`)
  return { ok: false, message: `uid ${uid} may not command this server` }
}

/** Whatever a client sends, the server goes on. */
function refusal(error: unknown): Answer {
  if (error instanceof CommandError) {
    const { exitCode, code, next, message } = error
    return { ok: false, message, exitCode, code, next }
  }
  return { ok: false, message: `this request cannot be answered: ${messageOf(error)}` }
}

/** A thousand processes that crash have a long story each. */
const MAX_ANSWER_BYTES = 64 * 1_048_576

/** Nobody is there, or somebody was until just now: a master that ends resets who still waits to be accepted. */
const ABSENT = new Set(['ENOENT', 'ENOTDIR', 'ECONNREFUSED', 'ECONNRESET', 'EPIPE'])

/** So often in a row one is seen not to run, so far apart: strace stops a process at each system call, and it answers. */
const LOOKS = 3
const LOOK_AFTER_MS = 50

/**
 * Asks the master of a run directory, as the user `uid`: what he cannot reach, a link of his does not make root reach.
 * Null when none answers there, or it ends before it has. It is not waited for while `isSuspended`.
 */
export async function ask(
  runDir: string,
  request: Request,
  timeoutMs: number,
  uid = process.geteuid?.() ?? 0,
  isSuspended = (): boolean => false,
): Promise<Answer | null> {
  if (!isUnixPath(controlPath(runDir))) return null // `start` has refused it
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

/** A stream of events that somebody follows. */
export interface Followed {
  /** The first answer; null when no master is there. */
  readonly answer: Answer | null
  /** Resolves when the stream has ended: the master has, or `close` was called. */
  readonly ended: Promise<void>
  close(): void
}

/** Follows the events of the master of a run directory; `onEvent` hears of each, up to `past` old ones first. */
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
  const answer = await Promise.race([first, ended.then(() => null), delay(FOLLOW_TIMEOUT_MS)])
  if (answer === null) socket.destroy()
  return { answer, ended, close: () => socket.destroy() }
}

const FOLLOW_TIMEOUT_MS = 5000

function delay(ms: number): Promise<null> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms, null).unref()
  })
}

/** connect(2) to a path is done when `net.connect` returns. */
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
