// Asks a short-lived process what the user's modules declare. The master never evaluates user code: it could not see
// changed code at a reload, and a module's timers and crashes would live in the supervisor.

import { CommandError, Exit, NODE_REFUSES } from '../exit-codes.ts'
import type { Declaration, Settings } from '../group.ts'
import type { Outline } from '../master/group-state.ts'
import { type FromChild, type GroupKey, keysOf, mailboxesOf } from '../messages.ts'
import type { Output } from '../output/output.ts'
import { type Child, onceEnded, onceUnstarted, ownProgram, type Program, spawnChild } from '../spawn.ts'

export interface Described {
  readonly groups: readonly Declaration[]
  /** Per group, in base64. */
  readonly tlsFiles: readonly Readonly<Record<string, string>>[]
  readonly settings: Settings
}

export function outlinesOf({ groups, tlsFiles }: Described): Outline[] {
  const keys = keysOf(groups)
  const mailboxes = mailboxesOf(groups)
  return groups.map((declaration, place) => {
    const [key, mailbox] = [keys[place] as GroupKey, mailboxes[place] as string]
    return { declaration, key, mailbox, tlsFiles: tlsFiles[place] ?? {} }
  })
}

const DESCRIBE_TIMEOUT_MS = 10_000
/** What a program may declare, as one line. Most of it is certificates: 7 KiB for a name with a chain and a key. */
const MOST_DECLARED_MIB = 64
const STDERR = 2

/** Input of a describe process, and where its output goes. */
interface DescribeOptions {
  readonly modules: readonly string[]
  readonly argv: readonly string[]
  /** Names or numbers that override the code; empty for none. */
  readonly user: string
  readonly group: string
  /** `native` or `node`, if the command line chose one. */
  readonly engine: string | undefined
  /** Aborts it. */
  readonly signal: AbortSignal
  /** Null in a command, where it shares stderr; stdout is for the result, possibly JSON. */
  readonly output: Output | null
  /** By default what this process runs. */
  readonly program?: () => Program
  /** Called with its pid; 0 if it could not be started. */
  readonly onSpawn: (pid: number) => void
}

/** Rejects with a CommandError whose message contains the module's own stack. */
export function describeModules(options: DescribeOptions): Promise<Described> {
  const { modules, argv, user, group, engine, signal, output, program = ownProgram, onSpawn } = options
  const isLogPiped = output?.isLogPiped ?? false
  const child = spawnChild(
    { role: 'describe', modules, argv, user, group, engine, isLogPiped },
    {
      stdio: output?.stdio ?? ['ignore', STDERR, 'inherit'],
      isDetached: true,
      program,
      maxBytes: MOST_DECLARED_MIB * 1_048_576,
    },
  )
  output?.attach(child, 'describe')
  onSpawn(child.process.pid ?? 0)
  return settle(child, modules, signal)
}

function settle(
  { process: child, channel }: Child,
  modules: readonly string[],
  signal: AbortSignal,
): Promise<Described> {
  return new Promise((resolve, reject) => {
    let reason = ''
    const end = (why: string) => {
      reason ||= why
      child.kill('SIGKILL')
    }
    const stop = () => {
      reject(new CommandError(Exit.Failure, 'the server is being stopped')) // at once: this process ends, too
      end('stopped')
    }
    const late = setTimeout(() => end(tooLate(modules)), DESCRIBE_TIMEOUT_MS)
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
    const leave = () => {
      clearTimeout(late)
      signal.removeEventListener('abort', stop) // the signal lives as long as the master
    }
    child.once('exit', leave)
    channel.onMessage = (message: FromChild) => {
      if (message.type === 'declared') resolve(message)
      else if (message.type === 'failed') reason = message.message
    }
    onceUnstarted(child, (error) => {
      leave()
      reject(error)
    })
    onceEnded(child, (code, killed) => {
      if (channel.isOverrun) reason ||= tooMuch(modules)
      const word = killed === null ? `exit ${code}` : `signal ${killed}`
      const refused = code === NODE_REFUSES ? 'Node has refused its flags, or ' : ''
      // No effect after `declared`.
      reject(
        new CommandError(
          Exit.Module,
          reason || `${refused}${modules.join(', ')} ended the process at its top level (${word})`,
        ),
      )
    })
  })
}

function tooMuch(modules: readonly string[]): string {
  return `${modules.join(', ')} declares more than ${MOST_DECLARED_MIB} MiB, its certificates included`
}

function tooLate(modules: readonly string[]): string {
  const seconds = DESCRIBE_TIMEOUT_MS / 1000
  return `${modules.join(', ')} did not come to the end of its top level and Worker.runAll() within ${seconds} s`
}
