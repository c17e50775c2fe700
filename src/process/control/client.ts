// A command's end of the control socket.

import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from '../../errors.ts'
import { isUnixPath } from '../../net/address.ts'
import { withRightsOf } from '../../rights.ts'
import { Channel } from '../channel.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { statOf } from '../paths.ts'
import { controlPath } from '../run-directory.ts'
import type { EventLine } from '../status/event-stream.ts'
import type { Answer, Request } from './requests.ts'

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
    const socket = connectAs(uid, runDir)
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
      reject(unreachable(controlPath(runDir), request, error))
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

/** Why there is no connection, although somebody has the socket. */
function unreachable(path: string, { command }: Request, cause: Error): CommandError {
  const code = codeOf(cause)
  if (code === 'EAGAIN') {
    const queue = 'those who wait for it already are as many as can'
    return new CommandError(Exit.Timeout, `the master did not answer '${command}': ${queue}`, { cause })
  }
  const next = code === 'EACCES' ? 'it is for another user: try sudo' : ''
  return new CommandError(Exit.Failure, `${path}: ${cause.message}`, { cause, next })
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
  const socket = connectAs(uid, runDir)
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

/**
 * Connects with the rights of `uid` and of the group of its run directory. For a path, connect(2) has run by the time
 * `net.connect` returns.
 */
function connectAs(uid: number, runDir: string): net.Socket {
  const isOwn = uid === process.geteuid?.()
  const gid = statOf(runDir)?.gid ?? uid
  return withRightsOf(isOwn ? null : { user: null, uid, gid }, () => net.connect(controlPath(runDir)))
}
