// The flags of Node that a child gets: those of this process, so that loaders, heap sizes and conditions hold for
// workers too, less what only one process can have (the inspector's port) or what would make a child something else.

/** Takes no program, or another one than ours. */
const NOT_FOR_CHILDREN =
  /^(-e|--eval|-p|--print|-pe|-c|--check|-i|--interactive|--input-type|--test.*|--watch.*|--run)(=|$)/
/** These take their value as the next argument, unless it follows a `=`. */
const TAKES_VALUE = /^(-e|--eval|-p|--print|-pe|--input-type|--watch-path|--run|--inspect-port|--debug-port)$/
const INSPECTOR = /^--(inspect|debug)(-|=|$)/

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

type Role = 'master' | 'describe' | 'worker'

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
  const flags = withoutValues(own, (flag) => NOT_FOR_CHILDREN.test(flag) || isPort(flag))
  if (role !== 'worker') return withoutValues(flags, (flag) => INSPECTOR.test(flag))
  return [...flags, ...extra, ...(inspectorPort === null ? [] : [`--inspect-port=${inspectorPort}`])]
}

/** The environment of a child. An inspector that NODE_OPTIONS asks for is the workers' alone. */
export function childEnv(role: Role, options = settings.options): NodeJS.ProcessEnv {
  if (!INSPECTS.test(options)) return { ...process.env }
  if (role === 'worker') return { ...process.env, NODE_OPTIONS: options }
  const kept = withoutValues(options.split(/\s+/), (flag) => INSPECTOR.test(flag))
  return { ...process.env, NODE_OPTIONS: kept.join(' ') }
}

const INSPECTS = /(^|\s)--inspect(-brk|-wait)?(=|\s|$)/

/** Whether workers are to have an inspector. */
export function inspects({ execArgv: own, options } = settings): boolean {
  return INSPECTS.test(own.join(' ')) || INSPECTS.test(options)
}

/** A port of its own for each worker, so that the old and the new process of a reload never share one. */
export class InspectorPorts {
  readonly #first: number
  readonly #taken = new Set<number>()

  constructor(first = settings.debugPort) {
    this.#first = first
  }

  /** The lowest that is free. 0 stays 0: any port will do. */
  take(): number {
    if (this.#first === 0) return 0
    let port = this.#first + 1
    while (this.#taken.has(port)) port++
    this.#taken.add(port)
    return port
  }

  release(port: number): void {
    this.#taken.delete(port)
  }
}

function isPort(flag: string): boolean {
  return /^--(inspect|debug)-port(=|$)/.test(flag)
}

function withoutValues(flags: readonly string[], isDropped: (flag: string) => boolean): string[] {
  return flags.filter((flag, at) => {
    const before = flags[at - 1] ?? ''
    return !isDropped(flag) && !(TAKES_VALUE.test(before) && isDropped(before))
  })
}
