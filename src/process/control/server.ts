// The control socket: how every command except `start` talks to the master. One request and one answer per connection,
// each a line of JSON. After the answer to `events`, events follow, one per line, until the client leaves. The socket
// is 0600 inside a 0700 directory: a process that can connect may give commands. With the addon, the peer's uid is
// checked too, so that loosened permissions let no other user in.

import { once } from 'node:events'
import { linkSync, lstatSync, renameSync, rmSync, unlinkSync } from 'node:fs'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { addon } from '../../addon.ts'
import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { fileId, removeStaleSocket } from '../../net/bound-socket.ts'
import { descriptorOf } from '../../net/descriptors.ts'
import { Channel } from '../channel.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { asidePath, controlPath } from '../run-directory.ts'
import { EventStream } from '../status/event-stream.ts'
import type { Events } from '../status/events.ts'
import type { Answer, Done, Request } from './requests.ts'

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
  /** The path that it was bound at, which libuv unlinks when it closes. */
  #bound: string
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
    this.#bound = this.#path
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
