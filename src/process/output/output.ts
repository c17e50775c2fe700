// What the processes of a server print, and where it goes. In the foreground they share our terminal; a daemon's stderr
// comes to the master through pipes, so that each line gets its worker's name, and files can be rotated and bounded in
// one place. The standard output of a daemon goes to nowhere, as Workerman's, or through the master into a file.

import { join, resolve } from 'node:path'
import { addon } from '../../addon.ts'
import { messageOf } from '../../errors.ts'
import { guardOutput, log, sendLogTo } from '../../log.ts'
import type { Settings } from '../group.ts'
import type { StartOptions } from '../messages.ts'
import type { Child, StdioSource } from '../spawn.ts'
import { Logbook, type Sink, type SourceName, Tail } from './logbook.ts'
import { OutputFile } from './output-file.ts'

const NOWHERE = '/dev/null'
/** Bytes that may wait for the reader of our stderr. */
const MOST_WAITING = 1_048_576

export class Output {
  readonly #options: StartOptions
  readonly #isDaemon: boolean
  readonly #defaultLog: string
  readonly #logbook: Logbook
  #logFile: OutputFile | null = null
  #stdoutFile: OutputFile | null = null

  /** Throws a CommandError for a file that cannot be written. */
  constructor(options: StartOptions, isDaemon: boolean, runDir: string, settings: Settings) {
    this.#options = options
    this.#isDaemon = isDaemon
    this.#defaultLog = isDaemon ? join(runDir, 'millrace.log') : ''
    const echo = isDaemon ? null : new Terminal()
    this.#logbook = new Logbook({ format: options.logFormat, file: null, echo })
    guardOutput()
    this.configure(settings)
  }

  /** Follows what the code says, where the command line says nothing. Throws a CommandError, and then nothing changed. */
  configure({ logFile, stdoutFile, logFileMaxSize }: Settings): void {
    const maxBytes = this.#options.logMaxSize ?? logFileMaxSize
    const path = this.#options.logFile ?? (logFile || this.#defaultLog)
    const file = openAs(this.#logFile, path, maxBytes, this.#isDaemon ? becomeStderr : ignore)
    const stdout = this.#openStdout(stdoutFile, file, maxBytes)
    const before = new Set([this.#logFile, this.#stdoutFile])
    this.#logFile = this.#logbook.file = file
    this.#stdoutFile = stdout
    for (const old of before) if (old !== file && old !== stdout) old?.close()
    const write = (message: string) => this.#logbook.write({ pid: process.pid, worker: '', message })
    sendLogTo(this.isLogPiped ? write : null)
  }

  /** The same file as the log, when both have one path: two would each count its own bytes and put the other's aside. */
  #openStdout(fromCode: string, log: OutputFile | null, maxBytes: number): OutputFile | null {
    const path = this.#isDaemon ? (this.#options.stdoutFile ?? fromCode) : ''
    if (path === '' || path === NOWHERE) return null
    if (log !== null && resolve(log.path) === resolve(path)) return log
    try {
      return openAs(this.#stdoutFile, path, maxBytes, ignore)
    } catch (error) {
      if (log !== this.#logFile) log?.close()
      throw error
    }
  }

  /** Absolute; empty when the terminal is the log. */
  get logPath(): string {
    return this.#logFile === null ? '' : resolve(this.#logFile.path)
  }

  /** Whether children write to a pipe of ours instead of a terminal that we share. */
  get isLogPiped(): boolean {
    return this.#isDaemon || this.#logFile !== null || this.#options.logFormat === 'json'
  }

  /** Standard input, output and error of a child. */
  get stdio(): [StdioSource, StdioSource, StdioSource] {
    const out = !this.#isDaemon ? 'inherit' : this.#stdoutFile === null ? 'ignore' : 'pipe'
    return ['ignore', out, this.isLogPiped ? 'pipe' : 'inherit']
  }

  /** Reads what a child prints; `worker` is its name in the log. Its last lines, if they come this way. */
  attach({ process: child }: Child, worker: SourceName): Tail {
    const tail = new Tail()
    if (child.stderr) this.#logbook.attach(child.stderr, { pid: child.pid ?? 0, worker }, tail)
    child.stdout?.on('data', (bytes: Buffer) => this.#stdoutFile?.write(bytes))
    child.stdout?.on('error', ignore)
    return tail
  }

  /** Opens the files anew: a rotation is noticed by itself too, within a second. */
  reopen(): void {
    this.#logFile?.reopen()
    this.#stdoutFile?.reopen()
  }
}

/** Our stderr. A reader that has stopped costs lines, and neither our memory nor the workers' time. */
class Terminal implements Sink {
  lostBytes = 0

  write(text: string): void {
    const { stderr } = process
    if (stderr.writableLength < MOST_WAITING) stderr.write(text)
    else this.lostBytes += Buffer.byteLength(text)
  }
}

/** The file at `path`, which may be the one that is open. Null for none. */
function openAs(
  open: OutputFile | null,
  path: string,
  maxBytes: number,
  opened: (fd: number) => void,
): OutputFile | null {
  if (open !== null && open.path === path && open.maxBytes === maxBytes) return open
  return path === '' ? null : new OutputFile(path, maxBytes, opened)
}

/**
 * What V8 prints when it ends a daemon's master (out of memory) goes to descriptor 2, past all of this: with the addon that
 * is the log, also after a rotation; without it, the file that the master was started with.
 */
function becomeStderr(fd: number): void {
  try {
    addon().sys?.duplicateOnto(fd, 2)
  } catch (error) {
    log(messageOf(error)) // EMFILE, perhaps: it stays what it was
  }
}

function ignore(): void {
  // The pipe of a process that is gone; a descriptor that nobody else wants.
}
