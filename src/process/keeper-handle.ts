// The keeper of shared data as the master sees it: started when somebody first asks for it, and again should it have ended.
// The master connects workers to it, so that they need no path, no right to one, and no secret; what they say is not its
// business.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { log } from '../log.ts'
import { encodeFrame } from '../shared/wire.ts'
import type { Output } from './output.ts'
import { type Child, onceEnded, spawnChild } from './spawn.ts'

const START_TIMEOUT_MS = 10_000
/** It has nothing to finish. */
const END_TIMEOUT_MS = 1000

export class KeeperHandle {
  readonly #path: string
  readonly #output: Output
  readonly #onChange: () => void
  readonly #secret = randomBytes(32).toString('base64')
  #child: Child | null = null
  #ready: Promise<void> | null = null
  #isEnding = false

  /** `onChange` is told when `pid` is another one. */
  constructor(runDir: string, output: Output, onChange: () => void) {
    this.#path = join(runDir, 'keeper.sock')
    this.#output = output
    this.#onChange = onChange
  }

  /** 0 while there is none. */
  get pid(): number {
    return this.#child?.process.pid ?? 0
  }

  /** A connection that the keeper trusts, to be given away: nothing has been read from it. Rejects when it cannot be had. */
  async connect(): Promise<net.Socket> {
    this.#ready ??= this.#start()
    await this.#ready
    const socket = new net.Socket()
    socket.pause()
    socket.connect(this.#path)
    await once(socket, 'connect')
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      socket.write(encodeFrame([0, 'hello', this.#secret]), () => resolve())
    })
    return socket
  }

  /** When nobody is left who could ask: it leaves when its channel closes, as it would without a master. */
  async end(): Promise<void> {
    this.#isEnding = true
    const child = this.#child
    if (child === null) return
    const isGone = once(child.process, 'exit')
    const late = setTimeout(() => child.process.kill('SIGKILL'), END_TIMEOUT_MS)
    child.channel.destroy()
    await isGone
    clearTimeout(late)
    rmSync(this.#path, { force: true })
  }

  #start(): Promise<void> {
    const output = this.#output
    const child = spawnChild(
      { role: 'keeper', path: this.#path, secret: this.#secret, isLogPiped: output.isLogPiped },
      { stdio: output.stdio, isDetached: true },
    )
    output.attach(child, 'keeper')
    this.#child = child
    this.#onChange()
    return new Promise((resolve, reject) => {
      let why = ''
      const late = setTimeout(() => child.process.kill('SIGKILL'), START_TIMEOUT_MS)
      child.channel.onMessage = (message) => {
        clearTimeout(late)
        if (message.type === 'ready') resolve()
        else if (message.type === 'failed') why = message.message
      }
      const end = (word: string) => {
        clearTimeout(late)
        this.#child = this.#ready = null
        child.channel.destroy()
        if (!this.#isEnding) log(`keeper of shared data pid ${child.process.pid}: ${word}. What it kept is lost`)
        this.#onChange()
        reject(new Error(word))
      }
      child.process.once('error', (error) => end(error.message)) // spawn itself failed
      onceEnded(child.process, (code, signal) => end(why || (signal === null ? `exit ${code}` : `signal ${signal}`)))
    })
  }
}
