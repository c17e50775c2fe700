// The keeper of shared data as the master sees it: started on first use, and again if it ended. The master makes the
// connections for its workers, so that they need no path, no permission on it, and no secret. It does not read what
// they exchange.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, rmSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { addon } from '../../addon.ts'
import { withResolvers } from '../../deferred.ts'
import { log } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { descriptorOf } from '../../net/descriptors.ts'
import { nothing } from '../../nothing.ts'
import { encodeFrame } from '../../shared/wire.ts'
import { type Identity, isAlive, startTimeOf } from '../identity.ts'
import type { Output } from '../output/output.ts'
import { type Child, onceEnded, onceUnstarted, type Program, spawnChild } from '../spawn.ts'
import type { InheritedKeeper } from '../upgrade/inheritance.ts'
import { tidy } from './tidy.ts'

const START_TIMEOUT_MS = 10_000
/** How long a keeper that is no longer needed may take to end: it has nothing to finish. */
const END_TIMEOUT_MS = 1000
/** How long a keeper may take to listen again: it may be at a long request. */
const RENEW_TIMEOUT_MS = 1000
/** How long the end of one that refuses connections may go unreported. */
const REPORT_TIMEOUT_MS = 1000
const LOOK_EVERY_MS = 10
const NOBODY: Identity = { pid: 0, startTime: '' }

export class KeeperHandle {
  readonly path: string
  readonly #output: Output
  readonly #program: () => Program
  readonly #onChange: () => void
  readonly #secret: string
  /** The keeper that the earlier master started. It lives as long as a process is connected. */
  #inherited: Identity = NOBODY
  #hold: net.Socket | null = null
  #joining: Promise<boolean> | null = null
  #child: Child | null = null
  #ready: Promise<void> | null = null
  /** `#child` has listened. */
  #hasKept = false
  /** Settles when the end of `#child` has been reported. */
  #gone: Promise<void> = Promise.resolve()
  #isEnding = false

  /** `onChange` is called when `pid` changes. */
  constructor(
    runDir: string,
    output: Output,
    program: () => Program,
    onChange: () => void,
    earlier: InheritedKeeper | null = null,
  ) {
    this.#secret = earlier?.secret ?? randomBytes(32).toString('base64')
    this.#inherited = earlier?.identity ?? NOBODY
    this.path = join(runDir, 'keeper.sock')
    this.#output = output
    this.#program = program
    this.#onChange = onChange
  }

  /** Whether the keeper is a child of this process. */
  get hasStarted(): boolean {
    return this.#child !== null
  }

  /** 0 if there is none. */
  get pid(): number {
    return this.#child?.process.pid ?? this.#inherited.pid
  }

  /** A connection that the keeper trusts, to be given away: nothing has been read from it. Rejects if there is none. */
  async connect(): Promise<net.Socket> {
    this.#ready ??= this.#begin()
    const ready = this.#ready
    await ready
    try {
      return await this.#dial()
    } catch (error) {
      if (!(await this.#isOver(ready))) throw error
    }
    this.#ready ??= this.#begin()
    await this.#ready
    return this.#dial()
  }

  /** Whether the keeper that was `ready` is over: who asks again when a call was cut off may be ahead of the report. */
  async #isOver(ready: Promise<void>): Promise<boolean> {
    const deadline = now() + REPORT_TIMEOUT_MS
    while (this.#ready === ready && now() < deadline) await sleep(LOOK_EVERY_MS)
    return this.#ready !== ready && !this.#isEnding
  }

  /** For the next master. */
  get inheritance(): InheritedKeeper {
    const isStarting = this.#child !== null && !this.#hasKept // a signal would still end it
    const pid = isStarting ? 0 : this.pid
    return { identity: { pid, startTime: pid === 0 ? '' : startTimeOf(pid) }, secret: this.#secret }
  }

  /** Holds on to the earlier master's keeper, if there is one: it then outlives that master and its processes. */
  async hold(): Promise<void> {
    if (this.#child === null) await this.#join()
  }

  /** False if a keeper runs that no new process can reach: somebody has removed the file of its socket. */
  get isThere(): boolean {
    const isRunning = this.#hold !== null || this.#hasKept
    return !isRunning || existsSync(this.path)
  }

  /** Has the keeper listen again where that file is gone. False if it does not, as one of an earlier version. */
  async renew(): Promise<boolean> {
    if (this.#child !== null) this.#child.process.kill('SIGUSR2')
    else if (isAlive(this.#inherited)) process.kill(this.#inherited.pid, 'SIGUSR2')
    else return false
    const endAt = now() + RENEW_TIMEOUT_MS
    while (!existsSync(this.path) && now() < endAt) await sleep(LOOK_EVERY_MS)
    return existsSync(this.path)
  }

  /** Connects to the earlier master's keeper, if there is one; starts a new one if that has gone. */
  async rejoin(): Promise<void> {
    if (this.#child !== null) return
    if (this.#inherited.pid === 0) await this.#join()
    else await this.#begin()
  }

  /** During an upgrade there are two masters. The one asked first starts the keeper, the other joins it. */
  async #begin(): Promise<void> {
    if (await this.#join()) return
    const { pid } = this.#inherited
    if (pid !== 0 && (await this.renew()) && (await this.#join())) return
    if (pid !== 0) log(`keeper of shared data pid ${pid}: out of reach. What it kept is lost`)
    this.#inherited = NOBODY
    try {
      await this.#start()
    } catch (error) {
      if (!(await this.#join())) throw error // EADDRINUSE: the other master was quicker
    }
  }

  /** Connects to the running keeper, once; false if there is none. */
  #join(): Promise<boolean> {
    this.#joining ??= this.#take().finally(() => {
      this.#joining = null
    })
    return this.#joining
  }

  async #take(): Promise<boolean> {
    if (this.#hold !== null) return true
    const hold = await this.#dial().catch(() => null)
    if (hold === null) return false
    if (this.#inherited.pid === 0) this.#inherited = listenerOf(hold)
    this.#hold = hold.resume()
    // 'close' follows an error.
    hold.on('error', nothing).once('close', () => {
      this.#hold = this.#ready = null
      this.#inherited = NOBODY
      if (!this.#isEnding) log('keeper of shared data: gone. What it kept is lost')
      this.#onChange()
    })
    this.#onChange()
    return true
  }

  async #dial(): Promise<net.Socket> {
    const socket = new net.Socket()
    socket.pause()
    socket.connect(this.path)
    await once(socket, 'connect')
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      socket.write(encodeFrame([0, 'hello', this.#secret]), () => resolve())
    })
    return socket
  }

  /**
   * Ends the keeper once no process can ask it any more (`isLast`: none of another master's either). It exits when its
   * channel closes, as it would without a master.
   */
  async end(isLast: boolean): Promise<void> {
    this.#isEnding = true
    const child = this.#child
    if (child === null) return isLast ? this.#endInherited() : void this.#hold?.destroy()
    child.channel.destroy()
    if (!isLast) return // the other master's processes may use it: it leaves when the last of them does
    const late = setTimeout(() => child.process.kill('SIGKILL'), END_TIMEOUT_MS)
    await this.#gone
    clearTimeout(late)
    tidy(() => rmSync(this.path, { force: true }))
  }

  /** It exits on its own when nothing is connected; killed if it does not. */
  async #endInherited(): Promise<void> {
    const keeper = this.#inherited
    if (keeper.pid === 0) return
    const killAt = now() + END_TIMEOUT_MS
    this.#hold?.destroy()
    while (isAlive(keeper)) {
      if (now() > killAt) process.kill(keeper.pid, 'SIGKILL')
      await sleep(LOOK_EVERY_MS)
    }
    tidy(() => rmSync(this.path, { force: true }))
  }

  #start(): Promise<void> {
    const output = this.#output
    const child = spawnChild(
      { role: 'keeper', path: this.path, secret: this.#secret, isLogPiped: output.isLogPiped },
      { stdio: output.stdio, isDetached: true, program: this.#program },
    )
    output.attach(child, 'keeper')
    this.#child = child
    const gone = withResolvers()
    this.#gone = gone.promise
    this.#onChange()
    return new Promise((resolve, reject) => {
      let why = ''
      const late = setTimeout(() => child.process.kill('SIGKILL'), START_TIMEOUT_MS)
      child.channel.onMessage = (message) => {
        clearTimeout(late)
        if (message.type === 'ready') {
          this.#hasKept = true
          resolve()
        }
        if (message.type === 'failed') why = message.message
      }
      const end = (word: string) => {
        clearTimeout(late)
        this.#child = this.#ready = null
        child.channel.destroy()
        const loss = this.#hasKept ? '. What it kept is lost' : ''
        this.#hasKept = false
        if (!this.#isEnding) log(`keeper of shared data pid ${child.process.pid}: ${word}${loss}`)
        this.#onChange()
        gone.resolve()
        reject(new Error(word))
      }
      onceUnstarted(child.process, (error) => end(error.message))
      onceEnded(child.process, (code, signal) => end(why || (signal === null ? `exit ${code}` : `signal ${signal}`)))
    })
  }
}

/** The process at the other end; NOBODY if that cannot be determined. */
function listenerOf(socket: net.Socket): Identity {
  const fd = descriptorOf(socket)
  const { sys } = addon()
  if (sys === null || fd < 0) return NOBODY
  try {
    const { pid } = sys.peerCredentials(fd)
    return { pid, startTime: startTimeOf(pid) }
  } catch {
    return NOBODY // ENOTCONN: it has gone already
  }
}
