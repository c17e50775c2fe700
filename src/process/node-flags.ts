// The Node flags of a child: those of this process, so that loaders, heap sizes and conditions apply to workers too,
// except those that only one process can have (the inspector's port) or that would turn a child into something else.

import { v8 } from '../builtins.ts'

/** Flags that run no program, or a different one. */
const NOT_FOR_CHILDREN =
  /^(-e|--eval|-p|--print|-pe|-c|--check|-i|--interactive|--input-type|--test(-.*)?|--watch(-.*)?|--run|--(experimental-)?entry-url)$/
const INSPECTOR = /^--(no-)?(inspect|debug)(-.*)?$/
const PORT = /^--(inspect|debug)-port$/
const OPENS_INSPECTOR = /^--(no-)?inspect(-brk|-wait)?$/

/**
 * For a process without an inspector of its own. If someone opens one (SIGUSR1), it takes any free loopback port and
 * prints its address, which contains a secret, on stderr only. Without that every user of the machine could run code in
 * it, as root if root has started the server.
 */
export const QUIET_INSPECTOR: readonly string[] = ['--inspect-port=0', '--inspect-publish-uid=stderr']

/** What Node then prints. Loopback only, so that a printed line cannot direct the master elsewhere. */
export const INSPECTOR_LINE = /^Debugger listening on (ws:\/\/127\.0\.0\.1:\d+\/[0-9a-f-]{36})$/

/** The flags without QUIET_INSPECTOR: what a process passes on to its own children, and shows. */
export function withoutQuietInspector(execArgv: readonly string[]): string[] {
  return execArgv.filter((flag) => !QUIET_INSPECTOR.includes(flag))
}

/** How the person started Node. A master that is itself a child has a different command line. */
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

/** The settings with which this process starts its children. */
export function nodeSettings(): NodeSettings {
  return settings
}

/** Takes over the settings of the process that launched this one. */
export function adoptNodeSettings(theirs: NodeSettings): void {
  settings = theirs
}

type Role = 'master' | 'describe' | 'callback' | 'worker' | 'keeper'

/**
 * Flags for a child: our own, then `extra`, then its inspector's port. Only workers get an inspector: a daemon must not
 * hold the port of the command that started it, and `--inspect-brk` would block a describe process forever.
 */
export function nodeFlags(
  role: Role,
  inspectorPort: number | null,
  extra: readonly string[],
  own = settings.execArgv,
): string[] {
  const flags = without(NOT_FOR_CHILDREN, own)
  if (role !== 'worker') return [...without(INSPECTOR, flags), ...QUIET_INSPECTOR]
  if (inspectorPort === null) return [...without(PORT, flags), ...QUIET_INSPECTOR, ...extra]
  return [...flags, ...extra, `--inspect-port=${inspectorPort}`] // the last port counts; a bare number keeps the host
}

const INLINING = '--max-inlined-bytecode-size-cumulative'
/**
 * Bytes of bytecode. V8's default is 920. With 4,000 a worker spends 200 ms more on compiling in its first second; with
 * this value, 50 ms.
 */
const INLINED = 2000

/**
 * Lets V8 inline more into one function than by default: a message passes through two dozen short functions, and a
 * third of them would not be inlined. Call it before the code is hot, but after everything needed is loaded, since it
 * invalidates existing code caches. Does nothing if the command line sets the flag. A V8 without this flag prints that
 * on stderr and goes on.
 */
export function inlineMore(): void {
  if (!process.execArgv.map(nameOf).includes(INLINING)) v8().setFlagsFromString(`${INLINING}=${INLINED}`)
}

/** Variables from the service manager for the process it started. A library in a worker must not act on them. */
const OF_THE_MASTER = [
  ...['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES', 'LISTEN_PIDFDID'],
]

/** The environment of a child. Only workers get an inspector that NODE_OPTIONS requests. */
export function childEnv(role: Role, options = settings.options): NodeJS.ProcessEnv {
  const env = { ...process.env }
  if (role !== 'master') for (const name of OF_THE_MASTER) delete env[name]
  const all = wordsOf(options)
  const kept = without(INSPECTOR, all)
  if (kept.length === all.length) return env
  return { ...env, NODE_OPTIONS: role === 'worker' ? options : kept.join(' ') }
}

/** Whether workers with these extra flags should have an inspector. */
export function inspects(extra: readonly string[] = [], { execArgv, options } = settings): boolean {
  const names = [...wordsOf(options), ...execArgv, ...extra].map(nameOf)
  const last = names.findLast((name) => OPENS_INSPECTOR.test(name))
  return last !== undefined && !last.startsWith('--no-')
}

/** Gives each worker its own port, so that the old and new process of a reload never share one. */
export class InspectorPorts {
  readonly #first: number
  readonly #taken = new Set<number>()

  constructor(first = portIn(linesOf(settings)) === 0 ? 0 : settings.debugPort) {
    this.#first = first
  }

  /**
   * The lowest free port: from the one that a worker's `extra` flags name, or above our own. 0 means any port and is
   * returned as it is.
   */
  take(extra: readonly string[] = []): number {
    const named = portIn(extra)
    if ((named ?? this.#first) === 0) return 0
    let port = named ?? portAfter(this.#first)
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

/**
 * The port that flags ask for. Of 0 process.debugPort cannot tell: once the inspector is open, it holds the port that
 * the kernel assigned.
 */
function portIn(flags: readonly string[]): number | undefined {
  const ports = flags
    .join('\n')
    .matchAll(/^"?--(?:inspect(?:[-_](?:brk|wait|port))?|debug[-_]port)[=\n](?:\S*:)?(\d+)"?$/gm)
  const last = [...ports].at(-1)?.[1]
  return last === undefined ? undefined : Number(last)
}

function linesOf({ execArgv, options }: NodeSettings): string[] {
  return [...wordsOf(options), ...execArgv]
}

/** Removes flags and the values after them. A value never starts with a dash: Node refuses that. */
function without(dropped: RegExp, args: readonly string[]): string[] {
  let isDropped = false
  return args.filter((arg) => {
    const name = nameOf(arg)
    if (name.startsWith('-')) isDropped = dropped.test(name)
    return !isDropped
  })
}

/** Normalised as Node does: `--inspect_brk=9229` is `--inspect-brk`. */
export function nameOf(arg: string): string {
  return arg.replaceAll('"', '').replace(/=.*/s, '').replaceAll('_', '-')
}

/** The words of NODE_OPTIONS, unchanged: double quotes may contain spaces. */
function wordsOf(options: string): string[] {
  return options.match(/(?:"(?:\\.|[^"\\])*"?|[^ "])+/g) ?? []
}
