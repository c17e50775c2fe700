// `logs`: the log of a server, even if it no longer runs, since that is often when the log is needed.

import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { CommandError, Exit } from '../exit-codes.ts'
import { logsOf } from '../log-place.ts'
import { HELPERS } from '../output/logbook.ts'
import { FileTail, lastLines } from '../output/tail.ts'
import { placesToAsk } from '../run-directory.ts'
import { ANY_WORDS, type Command } from './command.ts'
import { untilSeen } from './follow.ts'
import { givenFor, type Line, linesOf, runDirOf } from './line.ts'
import { allNamesOf, checkMeant } from './meant.ts'
import { print } from './print.ts'
import { findServer } from './server.ts'

const LINES = 20
/** How often to check for more. */
const LOOK_EVERY_MS = 100

export const logs: Command = {
  operands: '[app.js] [NAME ...]',
  summary: 'the end of the log; -f goes on with what comes',
  details: `The last 20 lines, or -n N, of the file that the server writes to (or has written to: it need not run), or of --log-file; with NAME only what these
groups or processes (echo, echo:2) have said, and what the master says of them. -f follows it, over rotations and restarts,
until Ctrl+C (exit code 0). --json: an object a line, as --log-format json writes it. A server in the foreground without --log-file logs to its terminal, where nobody else can read.`,
  flags: ['follow', 'lines', 'name', 'log-file'],
  words: ANY_WORDS,
  async run(line) {
    const { flags, words } = line
    const count = linesOf(flags, LINES)
    const path = await logFileOf(line)
    const groups = words.length === 0 ? null : await groupsOf(line)
    const names = allNamesOf(words, groups ?? [])
    const isMeant = words.length === 0 ? () => true : (text: string) => names.some((name) => isOf(text, name))
    const [lines, end] = readEnd(path, count, isMeant)
    // A group that the log has, and the code no longer, is none that nobody knows.
    if (lines.length === 0 && flags.follow !== true && groups !== null) checkMeant(words, groups)
    const shape = flags.json === true ? toJson : asItIs
    if (lines.length > 0) await print(`${lines.map(shape).join('\n')}\n`)
    return flags.follow === true ? follow(path, end, (text) => (isMeant(text) ? shape(text) : null)) : Exit.Ok
  },
}

/** The last lines, and up to where that is: in the rotated file if no other has followed it yet. */
function readEnd(path: string, count: number, isMeant: (line: string) => boolean): [string[], number] {
  const [lines, end] = lastLines(path, count, isMeant)
  const isThere = end > 0 || existsSync(path)
  const before = asideOf(path)
  if ((isThere && lines.length >= count) || !existsSync(before)) return [lines, end]
  const [earlier, endBefore] = lastLines(before, count - lines.length, isMeant)
  return [[...earlier, ...lines], isThere ? end : endBefore]
}

/** The file that was renamed when it became too large, or by logrotate. */
function asideOf(path: string): string {
  return `${path}.1`
}

/** Prints what `shape` returns for each line; null prints nothing. */
async function follow(path: string, from: number, shape: (line: string) => string | null): Promise<Exit> {
  const put = (line: string) => {
    const text = shape(line)
    if (text !== null) process.stdout.write(`${text}\n`)
  }
  // A reader that pauses is waited for: what is not read yet waits in the file, not in our memory.
  const tail = new FileTail(path, from, put, () => process.stdout.writableNeedDrain)
  const timer = setInterval(() => tail.look(), LOOK_EVERY_MS)
  const exit = await untilSeen()
  clearInterval(timer)
  tail.close()
  return exit
}

/** No server, or one that hangs, which its log may explain. */
const WITHOUT_ANSWER: ReadonlySet<Exit> = new Set([Exit.NotRunning, Exit.Timeout])

/** The file that the line names; else that of the running server, or where a server would have left it. */
async function logFileOf(line: Line): Promise<string> {
  const { 'log-file': named } = line.flags
  if (named !== undefined) return checkNamed(resolve(named))
  let reason: CommandError
  try {
    const { logFile, pid } = (await findServer(line)).done
    if (logFile !== undefined && logFile !== '') return logFile
    throw new CommandError(Exit.Failure, `the server, pid ${pid}, runs in the foreground and logs to its terminal`, {
      next: 'start it with --log-file FILE, or with -d',
    })
  } catch (error) {
    if (!(error instanceof CommandError && WITHOUT_ANSWER.has(error.exitCode))) throw error
    reason = error
  }
  const found = leftLogOf(line)
  if (found === undefined) throw reason
  if (reason.exitCode === Exit.Timeout)
    process.stderr.write(`millrace: warning: ${reason.message}; this is the log that it or another one has left\n`)
  return found
}

function checkNamed(path: string): string {
  if (existsSync(path) || existsSync(`${path}.1`)) return path
  throw new CommandError(Exit.Failure, `there is no file ${path}`, {
    next: 'without --log-file, logs looks where the server writes, or has written',
  })
}

/** The file that a server which no longer runs has left where its log would be; undefined for none. */
export function leftLogOf({ flags, modules }: Line): string | undefined {
  const given = givenFor(flags, 'log-file')
  const places = placesToAsk(modules[0] ?? '', runDirOf(flags)).places.flatMap(({ path }) => logsOf(path))
  return [...(given === undefined ? [] : [resolve(given)]), ...places].find(
    (path) => existsSync(path) || existsSync(asideOf(path)),
  )
}

/** Null if no server answers. */
async function groupsOf(line: Line) {
  const found = await findServer(line, { command: 'status' }).catch(() => null)
  return found?.done.status?.groups ?? null
}

/** `2026-11-26 12:30:01 pid:7 [echo:2] message`; the master's own lines have no worker. */
const TEXT_LINE = new RegExp(`^(\\S+ \\S+) pid:(\\d+) (?:\\[(.*?:\\d+|${HELPERS.join('|')})\\] )?(.*)$`)

/** Whether a line of the log comes from this group or process, or mentions it. */
export function isOf(text: string, name: string): boolean {
  const { worker, message } = text.startsWith('{') ? readJson(text) : readText(text)
  if (worker !== '') return worker === name || worker.replace(/:\d+$/, '') === name
  return mentions(message, name)
}

/** What may stand before and after a name; it may have blanks itself. */
const BEFORE = /(?:^|[\s,'"])$/
const AFTER = /^(?::\d*)?:?(?:[\s,'"]|$)/

function mentions(message: string, name: string): boolean {
  for (let at = message.indexOf(name); at >= 0; at = message.indexOf(name, at + 1)) {
    if (BEFORE.test(message.slice(0, at).slice(-1)) && AFTER.test(message.slice(at + name.length))) return true
  }
  return false
}

function asItIs(text: string): string {
  return text
}

/** Converts a text log line to the JSON form. Its time, in local time with seconds only, becomes ISO 8601. */
export function toJson(text: string): string {
  if (text.startsWith('{')) return text
  const [, time = '', pid = '', worker, message] = TEXT_LINE.exec(text) ?? []
  if (message === undefined) return JSON.stringify({ message: text })
  const date = new Date(time)
  const iso = Number.isNaN(date.getTime()) ? time : date.toISOString()
  return JSON.stringify({ time: iso, pid: Number(pid), worker, message })
}

function readText(text: string): { worker: string; message: string } {
  const [, , , worker = '', message = ''] = TEXT_LINE.exec(text) ?? []
  return { worker, message }
}

function readJson(text: string): { worker: string; message: string } {
  try {
    const { worker = '', message = '' } = JSON.parse(text) as { worker?: string; message?: string }
    return { worker: String(worker), message: String(message) }
  } catch {
    return { worker: '', message: text } // a SyntaxError: a full disk cut the line
  }
}
