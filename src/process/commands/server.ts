// Finds the server that a command is about: the first that answers in the places where `start` may have put it.

import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { now } from '../../loop/clock.ts'
import { ask } from '../control/client.ts'
import { type Answer, type Done, type Request, refusedBy } from '../control/requests.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { isAlive, isStopped } from '../identity.ts'
import { Lock } from '../lock.ts'
import { type Leftover, leftoversIn } from '../master/leftovers.ts'
import { controlPath, placesToAsk, runDirCandidates } from '../run-directory.ts'
import { type Line, runDirOf } from './line.ts'
import { LEFT_PROCESSES } from './next-step.ts'

/** How long a master may take to answer. */
const ANSWER_TIMEOUT_MS = 5000
/** How long a master that lives may refuse to talk, and how often to ask again. */
const PATIENCE_MS = 1000
const RETRY_MS = 50

/** Where a server was found, and its answer. */
export interface Found {
  readonly path: string
  readonly uid: number
  readonly done: Done
}

/** Asks the first server that answers. Rejects with a CommandError if there is none, or if it refuses. */
export async function findServer(line: Line, request: Request = { command: 'ping' }): Promise<Found> {
  const [module = ''] = line.modules
  const isNamed = line.isDirect || line.files.length > 0
  const { places, unreadable } = placesToAsk(module, runDirOf(line.flags))
  for (const { path, uid } of places) {
    const answer = await askThere(path, uid, isNamed ? { ...request, module } : request)
    if (answer !== null) return { path, uid, done: granted(answer) }
  }
  const others = unreadable.length === 0 ? '' : `; another user's server may be in ${unreadable.join(', ')}: try sudo`
  const { paths, elsewhere } = runDirCandidates(module, runDirOf(line.flags))
  const left = leftBehind(line).map(({ pid }) => pid)
  const also = left.length === 0 ? '' : `; ${LEFT_PROCESSES}: ${left.join(', ')}`
  const looked = [...paths, ...elsewhere].join(', ')
  throw new CommandError(Exit.NotRunning, `not running (looked in ${looked}${others})${also}`)
}

/** Processes of a master that was killed, in the places of a server that does not run. */
export function leftBehind({ modules, flags }: Line): Leftover[] {
  const { places } = placesToAsk(modules[0] ?? '', runDirOf(flags))
  return places.flatMap(({ path }) => leftoversIn(path))
}

/**
 * Null if there is no server. A master that is starting or ending closes connections for a moment; one that is out of
 * descriptors closes them all, and one whose socket was removed cannot be reached: neither is to be taken for none.
 */
async function askThere(path: string, uid: number, request: Request): Promise<Answer | null> {
  const patientUntil = now() + PATIENCE_MS
  for (;;) {
    const answer = await ask(path, request, ANSWER_TIMEOUT_MS, uid, () => isSuspended(path)).catch((error) => {
      throw error instanceof CommandError && error.exitCode === Exit.Timeout ? silent(path, error) : error
    })
    const holder = Lock.holderIn(path)
    if (answer !== null || !isAlive(holder)) return answer
    if (now() > patientUntil) throw existsSync(controlPath(path)) ? mute(holder.pid) : unreachable(path, holder.pid)
    await sleep(RETRY_MS)
  }
}

function mute(pid: number): CommandError {
  return new CommandError(Exit.Timeout, `the master, pid ${pid}, closes every connection without an answer`, {
    next: `it may be out of descriptors (see ls /proc/${pid}/fd, ulimit -n); kill -TERM ${pid} stops it`,
  })
}

function unreachable(runDir: string, pid: number): CommandError {
  const why = `${controlPath(runDir)} is gone`
  return new CommandError(Exit.Timeout, `the master, pid ${pid}, has no control socket: ${why}`, {
    next: `it is made anew within seconds if only its user can enter the folder (chmod 700 ${runDir}); kill -TERM ${pid} stops it`,
  })
}

function isSuspended(runDir: string): boolean {
  const holder = Lock.holderIn(runDir)
  return isAlive(holder) && isStopped(holder.pid)
}

/** Why a master does not answer, and what to do about it, as far as that can be seen from here. */
function silent(runDir: string, { message }: CommandError): CommandError {
  const holder = Lock.holderIn(runDir)
  const { pid } = holder
  if (!isAlive(holder)) return new CommandError(Exit.Timeout, message)
  if (isStopped(pid))
    return new CommandError(Exit.Timeout, `the master, pid ${pid}, is suspended (SIGSTOP, or a debugger)`, {
      next: `kill -CONT ${pid} lets it go on`,
    })
  return new CommandError(Exit.Timeout, `${message}, pid ${pid}`, {
    next: `if it stays so, kill -9 ${pid} ends it; its workers leave by themselves`,
  })
}

/** Null if there is none. Otherwise as `findServer`. */
export async function findIfRunning(line: Line): Promise<Found | null> {
  return findServer(line).catch(unlessNotRunning)
}

export function unlessNotRunning(error: unknown): null {
  if (error instanceof CommandError && error.exitCode === Exit.NotRunning) return null
  throw error
}

export async function askServer(line: Line, request: Request): Promise<Done> {
  return (await findServer(line, request)).done
}

/** Makes a request that takes time, to a server known to be running. */
export async function askFound({ path, uid, done: { pid } }: Found, request: Request): Promise<Done> {
  const answer = await ask(path, request, Number.POSITIVE_INFINITY, uid)
  if (answer !== null) return granted(answer)
  throw new CommandError(Exit.Failure, `the master, pid ${pid}, ended before the ${request.command} did`)
}

function granted(answer: Answer): Done {
  if (answer.ok) return answer
  throw refusedBy(answer)
}

/** A part of the answer that this command needs. Throws a CommandError if it is missing. */
export function need<T>(part: T | undefined): T {
  if (part !== undefined) return part
  throw new CommandError(Exit.Failure, 'the master answered something else: is it another version?', {
    next: "'millrace restart' starts this version",
  })
}
