// The next step that goes with an error, for those that do not bring their own: a line that can be typed, like the one
// that failed.

import { type CommandError, Exit } from '../exit-codes.ts'
import { fromHere } from '../paths.ts'
import { demoFile } from '../start-file.ts'
import { shellWord } from '../terminal/banner.ts'

/** What failed. */
export interface Typed {
  /** The name of the command; empty if there is none of that name. */
  readonly command: string
  /** What is run instead of `millrace`: the user's file; or null. */
  readonly direct: string | null
  /** Absolute paths. */
  readonly modules: readonly string[]
  /** As a flag has it. */
  readonly runDir: string | undefined
  /** Whether `logs` can show what the server has said. */
  readonly hasLog: boolean
}

/** In the error of a command that has found no server, but this. */
export const LEFT_PROCESSES = 'a master that was killed has left processes'

/** What to do about the error. */
export function nextStep({ exitCode, message, next }: CommandError, typed: Typed): string {
  if (next !== '') return next
  const { self, run } = likenessOf(typed)
  const logs = typed.hasLog
    ? `${run('logs')} has what its processes have said`
    : 'the lines before this are what its processes have said'
  if (exitCode === Exit.Usage) return `${self} help${typed.command && ` ${typed.command}`}`
  if (exitCode === Exit.NotRunning && message.includes(LEFT_PROCESSES))
    return `${run('stop')} ends them, and so does the next start`
  if (exitCode === Exit.NotRunning) return `start it: ${run('start -d', ' app.js')}`
  if (exitCode === Exit.AlreadyRunning) return `${run('reload')} for new code, ${run('restart')} for a new server`
  if (exitCode === Exit.Address && /: this server itself is at /.test(message)) return `${run('restart')} changes it`
  if (exitCode === Exit.Address) return otherAddress(message)
  if (exitCode === Exit.Module && typed.command === 'check') return 'correct the code' // no other command knows more
  if (exitCode === Exit.Module) return `correct the code: ${run('check')} evaluates it, ${logs}`
  if (exitCode === Exit.Timeout && /\bstartTimeoutMs\b/.test(message))
    return `make it settle sooner, or raise startTimeoutMs of the Worker: ${logs}`
  if (exitCode === Exit.Timeout) return `${run('status')} shows who hangs; kill -9 of its pid ends that`
  return typed.hasLog ? `see ${run('logs')}` : 'see the lines before this'
}

/** Command lines like the one that was typed. */
interface Likeness {
  /** What was run: `millrace`, or `node app.js`. */
  readonly self: string
  /** A line with the files and the run directory of that one; `otherwise` stands for files if it has none. */
  run(command: string, otherwise?: string): string
}

function likenessOf({ direct, modules, runDir }: Typed): Likeness {
  const self = direct === null ? 'millrace' : `node ${shellWord(fromHere(direct))}`
  const files = direct === null ? modules : []
  const these = files.map((path) => (path === demoFile() ? '' : ` ${shellWord(fromHere(path))}`)).join('')
  const where = runDir === undefined ? '' : ` --run-dir ${shellWord(runDir)}`
  const run = (command: string, otherwise = '') =>
    `${self} ${command}${these || (direct === null ? otherwise : '')}${where}`
  return { self, run }
}

function otherAddress(message: string): string {
  if (/ makes nothing in what others can change /.test(message))
    return 'chown the folder to that user, or choose one that only root can change, such as /run'
  if (/: EACCES\b/.test(message))
    return 'a port from 1024 on, or root, or CAP_NET_BIND_SERVICE; of a Unix socket, a folder that is yours'
  if (/: another Worker of this program is at /.test(message)) return 'give one of them another address'
  if (/: EADDRINUSE\b/.test(message))
    return `choose another address, or see who has it: ss ${/ \/[^:]*: EADDRINUSE/.test(message) ? '-lxp' : '-lntup'}`
  return 'correct the address: this machine cannot have it'
}
