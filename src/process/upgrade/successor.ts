// The next master as the current one sees it until the upgrade is done: a child that reports its progress, or is given
// up. It must send a sign of life all the time: one that hangs must not delay the server.

import { type ExecFileException, execFile } from 'node:child_process'
import { withResolvers } from '../../deferred.ts'
import { messageOf } from '../../errors.ts'
import { nothing } from '../../nothing.ts'
import { CommandError, describeExit, Exit, failureOf } from '../exit-codes.ts'
import type { PeerRow } from '../group.ts'
import type { FromChild, ToChild } from '../messages.ts'
import { childEnv, nodeFlags } from '../node-flags.ts'
import { type Child, onceEnded, onceUnstarted, type Program } from '../spawn.ts'

/** Time to its first message: Node starts and loads the package. */
const FIRST_WORD_MS = 10_000
/** It sends something every second. */
const SILENT_MS = 5000
/** Time from the request to leave until the kill, in addition to its workers' time to stop. */
const LEAVE_SLACK_MS = 3000

type Message<T extends FromChild['type']> = Extract<FromChild, { type: T }>

export class Successor {
  /** Called when it asks the old master to hurry. */
  onHurry: ((timeoutMs: number | null) => void) | null = null
  /** Addresses of its processes; null before it has reported them. */
  peers: readonly PeerRow[] | null = null
  onPeers: (() => void) | null = null
  readonly #end = withResolvers()
  /** The end of its process, unless it was released. Never rejects. */
  readonly gone = this.#end.promise
  /** 0 before its first message. */
  pid = 0
  readonly #child: Child
  #failure: CommandError | null = null
  #said: FromChild[] = []
  #look: () => void = nothing // no one waits yet
  #words = 0
  #silence: NodeJS.Timeout | undefined
  /** The child is a shell, and the master another process; the shell ends once the master leads. */
  readonly #isForkedTwice: boolean
  #isReleased = false

  /** A twice-forked one leads its own process group, together with the shell between. */
  constructor(child: Child, isForkedTwice: boolean) {
    this.#child = child
    this.#isForkedTwice = isForkedTwice
    child.channel.onMessage = (message) => this.#receive(message)
    onceUnstarted(child.process, (error) => this.#ended(error))
    onceEnded(child.process, (code, signal) => {
      const how = describeExit(code, signal)
      this.#ended(new CommandError(Exit.Failure, `the new master ended before it was in charge: ${how}`))
    })
    this.#listen(FIRST_WORD_MS)
  }

  send(message: ToChild): void {
    this.#child.channel.send(message)
  }

  /**
   * Resolves with its next message of this type. Rejects with a CommandError when it fails, ends or hangs, or `signal`
   * aborts.
   */
  expect<T extends FromChild['type']>(type: T, signal: AbortSignal): Promise<Message<T>> {
    return new Promise((resolve, reject) => {
      this.#look = () => {
        const found = this.#said.find((message): message is Message<T> => message.type === type)
        if (this.#failure !== null) reject(this.#failure)
        else if (signal.aborted) reject(stopped())
        else if (found === undefined) return
        else resolve(found)
        signal.removeEventListener('abort', this.#look)
        this.#look = nothing // no one waits any more
      }
      signal.addEventListener('abort', this.#look)
      this.#look()
    })
  }

  /**
   * The successor leads: from now on it may be silent. Resolves when no process is between it and the service manager.
   */
  async release(): Promise<void> {
    clearTimeout(this.#silence)
    this.#silence = undefined
    this.#child.process.unref()
    if (!this.#isForkedTwice) return
    this.#isReleased = true
    const { process: between } = this.#child
    const ended = new Promise((resolve) => between.once('exit', resolve))
    if (between.kill('SIGKILL')) await ended
  }

  /** Gives the successor up. Resolves when it has gone: on its own, within its workers' time to stop, or killed. */
  async abandon(stopTimeoutMs: number): Promise<void> {
    clearTimeout(this.#silence)
    this.#silence = undefined
    this.send({ type: 'abandon' })
    const late = setTimeout(() => this.#kill(), stopTimeoutMs + LEAVE_SLACK_MS)
    await this.gone
    clearTimeout(late)
  }

  #receive(message: FromChild): void {
    this.#words++
    if (this.#silence !== undefined) this.#listen(SILENT_MS)
    if (message.type === 'hurry') this.onHurry?.(message.timeoutMs ?? null)
    else if (message.type === 'peers') {
      this.peers = message.rows
      this.onPeers?.()
    } else if (message.type === 'failed') this.#fail(failureOf(message))
    else if (message.type === 'alive') this.pid = message.pid
    else this.#said.push(message)
    this.#look()
  }

  #listen(ms: number): void {
    clearTimeout(this.#silence)
    this.#silence = setTimeout(() => {
      const before = this.#words
      // Perhaps we were stopped: then its messages are there but unread.
      setImmediate(() => {
        if (this.#words === before) this.#giveUp(`the new master has said nothing for ${ms / 1000} s`)
      })
    }, ms)
  }

  #giveUp(why: string): void {
    this.#fail(new CommandError(Exit.Timeout, why))
    this.#kill()
    this.#look()
  }

  #kill(): void {
    const { process: child } = this.#child
    if (!this.#isForkedTwice || child.pid === undefined) child.kill('SIGKILL')
    else if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid, 'SIGKILL')
  }

  #fail(failure: CommandError): void {
    this.#failure ??= failure
  }

  #ended(why: CommandError): void {
    if (this.#isReleased) return
    clearTimeout(this.#silence)
    this.#silence = undefined
    this.#fail(why)
    this.#child.channel.destroy()
    this.#end.resolve()
    this.#look()
  }
}

/**
 * The version of this package that a program has: checks that it runs and that its start file loads. Rejects with a
 * CommandError that contains what was printed.
 */
export function checkProgram({ node, startFile }: Program, signal: AbortSignal): Promise<string> {
  const args = [...nodeFlags('master', null, []), startFile, '--version']
  return new Promise((resolve, reject) => {
    const options = { env: childEnv('master'), timeout: FIRST_WORD_MS, killSignal: 'SIGKILL', signal } as const
    execFile(node, args, options, (error, stdout, stderr) => {
      const version = stdout.trim()
      if (error === null && /^\d+\.\d+\.\d+/.test(version)) return resolve(version)
      reject(signal.aborted ? stopped() : cannotRun({ node, startFile }, error, stderr.trim()))
    })
  })
}

/** Without an error it is a program that runs, and is no Node. */
function cannotRun({ node, startFile }: Program, error: ExecFileException | null, printed: string): CommandError {
  const isLate = error?.killed === true
  const why = isLate
    ? `no answer within ${FIRST_WORD_MS / 1000} s`
    : printed || messageOf(error ?? 'it told no version')
  return new CommandError(isLate ? Exit.Timeout : Exit.Failure, `${node} ${startFile} cannot be run: ${why}`)
}

function stopped(): CommandError {
  return new CommandError(Exit.Failure, 'the server is being stopped')
}
