// Where the output of a server's processes goes. In the foreground they share our terminal. A daemon's stderr reaches
// the master through pipes, so that each line gets its worker's name, and files are rotated and limited in one place. A
// daemon's stdout is discarded, as in Workerman, or goes through the master into a file.

import { resolve } from 'node:path'
import { addon } from '../../addon.ts'
import { messageOf } from '../../errors.ts'
import { guardOutput, lineOf, log, sendLogTo } from '../../log.ts'
import { nothing } from '../../nothing.ts'
import type { Settings } from '../group.ts'
import { defaultLog } from '../log-place.ts'
import type { LogFormat, StartOptions } from '../messages.ts'
import type { Child, StdioSource } from '../spawn.ts'
import { Logbook, type SourceName, Tail } from './logbook.ts'
import { checkOutputFile, OutputFile } from './output-file.ts'
import { screenOf } from './screen.ts'

const NOWHERE = '/dev/null'

/** The files that the command line names, or else the code; empty for none, or for a daemon's usual log. */
export function filesOf(
  options: StartOptions,
  isDaemon: boolean,
  { logFile, stdoutFile }: Pick<Settings, 'logFile' | 'stdoutFile'>,
): { readonly log: string; readonly stdout: string } {
  const stdout = isDaemon ? (options.stdoutFile ?? stdoutFile) : ''
  return { log: options.logFile ?? logFile, stdout: stdout === NOWHERE ? '' : stdout }
}

export class Output {
  readonly #options: StartOptions
  readonly #isDaemon: boolean
  readonly #defaultLog: string
  readonly #logbook: Logbook
  #logFile: OutputFile | null = null
  #stdoutFile: OutputFile | null = null
  /** Settings of the code that a reload in progress brings: its processes start before they apply. */
  #coming: Settings | null = null
  /** `#stdoutFile` was opened for these processes. */
  #isEarly = false

  /** Throws a CommandError if a file cannot be written. */
  constructor(options: StartOptions, isDaemon: boolean, runDir: string, settings: Settings) {
    this.#options = options
    this.#isDaemon = isDaemon
    this.#defaultLog = isDaemon ? defaultLog(runDir) : ''
    const echo = isDaemon ? null : screenOf(2)
    this.#logbook = new Logbook({ format: options.logFormat, file: null, echo })
    guardOutput()
    this.configure(settings)
  }

  /**
   * From now on processes start that may outlive a reload which brings these settings. Where there has been no output
   * file, only they have a pipe to the new one, which is opened for what they print at their start. Throws a
   * CommandError if it cannot be. `configure` or `giveUp` follows.
   */
  expect(coming: Settings): void {
    this.#coming = coming
    if (this.#stdoutFile !== null) return
    this.#stdoutFile = this.#openStdout(coming.stdoutFile, this.#logFile, this.#maxBytesFor(coming))
    this.#isEarly = true
  }

  /** What was expected does not come. */
  giveUp(): void {
    this.#coming = null
    if (this.#isEarly && this.#stdoutFile !== this.#logFile) this.#stdoutFile?.close()
    if (this.#isEarly) this.#stdoutFile = null
    this.#isEarly = false
  }

  /**
   * Applies the code's settings where the command line has none. On failure throws a CommandError, and nothing has
   * changed.
   */
  configure(settings: Settings): void {
    const { logFile, stdoutFile } = settings
    const maxBytes = this.#maxBytesFor(settings)
    const path = this.#logPathFor(logFile)
    const file = openAs(this.#logFile, path, maxBytes, this.#isDaemon ? becomeStderr : nothing) // nothing else needs it
    const stdout = this.#openStdout(stdoutFile, file, maxBytes)
    const before = new Set([this.#logFile, this.#stdoutFile])
    this.#logFile = this.#logbook.file = file
    this.#stdoutFile = stdout
    this.#coming = null
    this.#isEarly = false
    for (const old of before) if (old !== file && old !== stdout) old?.close()
    const write = (message: string) => this.#logbook.write({ pid: process.pid, worker: '', message })
    const writeLine = (message: string) => this.#logbook.put(lineOf(message)) // as our children write to the terminal
    sendLogTo(this.isLogPiped ? write : writeLine)
  }

  /** Throws a CommandError if `configure` could not open a file; opens none. */
  check({ logFile, stdoutFile }: Settings): void {
    const open = [this.#logFile?.path, this.#stdoutFile?.path]
    for (const path of [this.#logPathFor(logFile), this.#stdoutPathFor(stdoutFile)])
      if (path !== '' && !open.includes(path)) checkOutputFile(path)
  }

  #maxBytesFor({ logFileMaxSize }: Settings): number {
    return this.#options.logMaxSize ?? logFileMaxSize
  }

  /** Empty for none. */
  #logPathFor(fromCode: string): string {
    return filesOf(this.#options, this.#isDaemon, { logFile: fromCode, stdoutFile: '' }).log || this.#defaultLog
  }

  /** Empty for none. */
  #stdoutPathFor(fromCode: string): string {
    return filesOf(this.#options, this.#isDaemon, { logFile: '', stdoutFile: fromCode }).stdout
  }

  /**
   * The log itself if both have the same path: two objects would each count only their own bytes and rename the other's
   * file.
   */
  #openStdout(fromCode: string, log: OutputFile | null, maxBytes: number): OutputFile | null {
    const path = this.#stdoutPathFor(fromCode)
    if (path === '') return null
    if (log !== null && resolve(log.path) === resolve(path)) return log
    try {
      return openAs(this.#stdoutFile, path, maxBytes, nothing) // as above
    } catch (error) {
      if (log !== this.#logFile) log?.close()
      throw error
    }
  }

  /** Absolute; empty if the terminal is the log. */
  get logPath(): string {
    return this.#logFile === null ? '' : resolve(this.#logFile.path)
  }

  /** Absolute paths of the files that are open. */
  get files(): string[] {
    return [this.#logFile, this.#stdoutFile].flatMap((file) => (file === null ? [] : resolve(file.path)))
  }

  /** Whether children that start now write to a pipe of ours instead of a terminal that we share. */
  get isLogPiped(): boolean {
    const isComing = this.#coming !== null && this.#logPathFor(this.#coming.logFile) !== ''
    return this.#isDaemon || this.#logFile !== null || isComing || this.#options.logFormat === 'json'
  }

  /** Standard input, output and error of a child. */
  get stdio(): [StdioSource, StdioSource, StdioSource] {
    const out = !this.#isDaemon ? 'inherit' : this.#stdoutFile === null ? 'ignore' : 'pipe'
    return ['ignore', out, this.isLogPiped ? 'pipe' : 'inherit']
  }

  /**
   * Reads a child's output; `worker` is its name in the log. The result has its last lines, if they pass through here.
   */
  attach({ process: child }: Child, worker: SourceName): Tail {
    const tail = new Tail()
    if (child.stderr) this.#logbook.attach(child.stderr, { pid: child.pid ?? 0, worker }, tail)
    child.stdout?.on('data', (bytes: Buffer) => this.#stdoutFile?.write(bytes))
    child.stdout?.on('error', nothing) // the pipe of a process that has gone
    return tail
  }

  /** Reopens the files. A rotation is also noticed without this, within a second. */
  reopen(): void {
    this.#logFile?.reopen()
    this.#stdoutFile?.reopen()
  }
}

/** Before there is an `Output`: log lines of a foreground server go to its terminal in this format. */
export function logToTerminal(format: LogFormat): void {
  const logbook = new Logbook({ format, file: null, echo: screenOf(2) })
  sendLogTo((message) => logbook.write({ pid: process.pid, worker: '', message }))
}

/** The file at `path`, possibly the one already open. Null for none. */
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
 * What V8 prints when it aborts a daemon's master (out of memory) goes directly to descriptor 2. With the addon that is
 * the log, even after a rotation; without it, the file that the master was started with.
 */
function becomeStderr(fd: number): void {
  try {
    addon().sys?.duplicateOnto(fd, 2)
  } catch (error) {
    log(messageOf(error)) // EMFILE, perhaps: descriptor 2 stays as it was
  }
}
