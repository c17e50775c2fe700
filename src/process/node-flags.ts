// The flags of Node that a child gets: those of this process, so that loaders, heap sizes and conditions hold for
// workers too, less what only one process can have (the inspector's port) or what would make a child something else.

import { v8 } from '../builtins.ts'

/** Takes no program, or another one than ours. */
const NOT_FOR_CHILDREN =
  /^(-e|--eval|-p|--print|-pe|-c|--check|-i|--interactive|--input-type|--test(-.*)?|--watch(-.*)?|--run|--(experimental-)?entry-url)$/
const INSPECTOR = /^--(no-)?(inspect|debug)(-.*)?$/
const PORT = /^--(inspect|debug)-port$/
const OPENS_INSPECTOR = /^--(no-)?inspect(-brk|-wait)?$/

/**
 * Of a worker without an inspector of its own: should somebody open it (SIGUSR1), it takes any port of loopback, and says on
 * stderr alone at which address, which has a secret in it.
 */
export const QUIET_INSPECTOR: readonly string[] = ['--inspect-port=0', '--inspect-publish-uid=stderr']

/** What Node prints then. Of loopback: nobody makes the master go anywhere else by printing something. */
export const INSPECTOR_LINE = /^Debugger listening on (ws:\/\/127\.0\.0\.1:\d+\/[0-9a-f-]{36})$/

/** What a process passes on to its own children, and shows: the flags without ours. */
export function withoutQuietInspector(execArgv: readonly string[]): string[] {
  return execArgv.filter((flag) => !QUIET_INSPECTOR.includes(flag))
}

/** How Node was started by the person: a master that is a child itself has another line. */
export interface NodeSettings {
  readonly execArgv: readonly string[]
  /** NODE_OPTIONS. */
  readonly options: string
  readonly debugPort: number
}

let settings: NodeSettings = {
  execArgv: process.execArgv,
  options: process.env.NODE_OPTIONS ?? '',
  debugPort: process.debugPort,
}

/** What the children of this process are to be started with. */
export function nodeSettings(): NodeSettings {
  return settings
}

/** Takes over those of who launched this process. */
export function adoptNodeSettings(theirs: NodeSettings): void {
  settings = theirs
}

type Role = 'master' | 'describe' | 'callback' | 'worker' | 'keeper'

/**
 * Flags for a child: our own, then `extra`, then its inspector's port. Only a worker has an inspector: a daemon must not
 * hold the port of the command that started it, and `--inspect-brk` would stop a describe process for ever.
 */
export function nodeFlags(
  role: Role,
  inspectorPort: number | null,
  extra: readonly string[],
  own = settings.execArgv,
): string[] {
  const flags = without(NOT_FOR_CHILDREN, own)
  if (role !== 'worker') return without(INSPECTOR, flags)
  if (inspectorPort === null) return [...without(PORT, flags), ...extra]
  return [...flags, ...extra, `--inspect-port=${inspectorPort}`] // the last port counts; a bare number keeps the host
}

const INLINING = '--max-inlined-bytecode-size-cumulative'
/** Of bytecode, in bytes. V8's own is 920; with 4,000 a worker compiles for 200 ms more in its first second, with this for 50. */
const INLINED = 2000

/**
 * Lets V8 inline more into one function than it does by itself: a message goes through two dozen short ones, of which it
 * would call a third. Before the code is hot, and unless the command line has said how much. A V8 without this flag says so on
 * stderr, and goes on. Code caches of before count for nothing then: to be called when what will be needed is loaded.
 */
export function inlineMore(): void {
  if (!process.execArgv.map(nameOf).includes(INLINING)) v8().setFlagsFromString(`${INLINING}=${INLINED}`)
}

/** What a service manager says to the process that it started: a library in a worker must not take it for itself. */
const OF_THE_MASTER = [
  ...['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES', 'LISTEN_PIDFDID'],
]

/** The environment of a child. An inspector that NODE_OPTIONS asks for is the workers' alone. */
export function childEnv(role: Role, options = settings.options): NodeJS.ProcessEnv {
  const env = { ...process.env }
  if (role !== 'master') for (const name of OF_THE_MASTER) delete env[name]
  const all = wordsOf(options)
  const kept = without(INSPECTOR, all)
  if (kept.length === all.length) return env
  return { ...env, NODE_OPTIONS: role === 'worker' ? options : kept.join(' ') }
}

/** Whether workers with these flags of their own are to have an inspector. */
export function inspects(extra: readonly string[] = [], { execArgv, options } = settings): boolean {
  const names = [...wordsOf(options), ...execArgv, ...extra].map(nameOf)
  const last = names.findLast((name) => OPENS_INSPECTOR.test(name))
  return last !== undefined && !last.startsWith('--no-')
}

/** A port of its own for each worker, so that the old and the new process of a reload never share one. */
export class InspectorPorts {
  readonly #first: number
  readonly #taken = new Set<number>()

  constructor(first = asksForAnyPort(settings) ? 0 : settings.debugPort) {
    this.#first = first
  }

  /** The lowest that is free. 0 stays 0: any port will do. */
  take(): number {
    if (this.#first === 0) return 0
    let port = portAfter(this.#first)
    while (this.#taken.has(port)) port = portAfter(port)
    this.#taken.add(port)
    return port
  }

  release(port: number): void {
    this.#taken.delete(port)
  }
}

const MAX_PORT = 65_535
const MIN_PORT = 1024 // Node takes no lower one

function portAfter(port: number): number {
  return port >= MAX_PORT ? MIN_PORT : port + 1
}

/** By the flags, not by process.debugPort: in a process that has its inspector it is the port that the kernel gave. */
function asksForAnyPort({ execArgv, options }: NodeSettings): boolean {
  const lines = [...wordsOf(options), ...execArgv].join('\n')
  const ports = lines.matchAll(/^"?--(?:inspect(?:[-_](?:brk|wait|port))?|debug[-_]port)[=\n](?:\S*:)?(\d+)"?$/gm)
  return [...ports].at(-1)?.[1] === '0'
}

/** Leaves out flags and the values that follow them: a value never begins with a dash, Node refuses that. */
function without(dropped: RegExp, args: readonly string[]): string[] {
  let isDropped = false
  return args.filter((arg) => {
    const name = nameOf(arg)
    if (name.startsWith('-')) isDropped = dropped.test(name)
    return !isDropped
  })
}

/** As Node compares them: `--inspect_brk=9229` is `--inspect-brk`. */
function nameOf(arg: string): string {
  return arg.replaceAll('"', '').replace(/=.*/s, '').replaceAll('_', '-')
}

/** The words of NODE_OPTIONS as they are written: double quotes hold spaces. */
function wordsOf(options: string): string[] {
  return options.match(/(?:"(?:\\.|[^"\\])*"?|[^ "])+/g) ?? []
}
