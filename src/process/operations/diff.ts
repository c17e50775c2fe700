// Compares what runs with what the code on disk declares: what a reload would change, and what was changed by commands.

import { now } from '../../loop/clock.ts'
import type { Declaration, Settings } from '../group.ts'
import type { GroupState } from '../master/group-state.ts'
import type { WorkerHandle } from '../master/worker-handle.ts'
import { keysOf, type StartOptions } from '../messages.ts'
import { matchGroups } from './group-match.ts'

export interface Difference {
  /** `-` for a setting of the server. */
  readonly group: string
  /** `group`, `processes`, or a setting: `count`, `listen`, `drainTimeoutMs` of the Worker, `health` of the server. */
  readonly what: string
  readonly running: string
  readonly wanted: string
  /** The command that makes it so: `reload`, `scale echo declared`, `start echo`; `status` where none does. */
  readonly command: string
}

/** What the master knows. The files are checked by the command. */
export interface Comparison {
  readonly differences: readonly Difference[]
  /** Absolute, and their real paths when the code was last evaluated for a start or a reload. */
  readonly modules: readonly string[]
  readonly evaluated: readonly string[]
  /** Start time of the oldest serving process, ms since 1970: later changes may not be running. */
  readonly oldestStart: number | null
}

/** Derived from properties that are compared anyway. */
const DERIVED = new Set(['credentials', 'engine'])

export function compare(groups: readonly GroupState[], declarations: readonly Declaration[]): Difference[] {
  const keys = keysOf(declarations)
  const match = matchGroups(
    groups.map(({ blueprint }) => blueprint.key),
    keys,
  )
  const found = declarations.flatMap((declaration, place) => {
    const group = groups[match.of[place] ?? -1]
    return group === undefined ? [added(declaration)] : changes(group, declaration)
  })
  const gone = match.gone.flatMap((place) => groups[place] ?? []).map(removed)
  return [...found, ...gone]
}

/** The flags that say what a setting is, whatever the code has. */
const FLAG_FOR: { readonly [key in keyof Settings]?: keyof StartOptions } = {
  logFile: 'logFile',
  stdoutFile: 'stdoutFile',
  pidFile: 'pidFile',
  logFileMaxSize: 'logMaxSize',
  health: 'health',
  stopDelayMs: 'stopDelayMs',
}

/** How the settings of the server, which belong to no group, would change. */
export function compareSettings(running: Settings, wanted: Settings, options: StartOptions): Difference[] {
  const isLeftToCode = (key: keyof Settings) => {
    const flag = FLAG_FOR[key]
    return flag === undefined || options[flag] === undefined
  }
  return (Object.keys(wanted) as (keyof Settings)[])
    .filter((key) => isLeftToCode(key) && JSON.stringify(running[key]) !== JSON.stringify(wanted[key]))
    .map((key) => {
      return { group: '-', what: key, running: wordOf(running[key]), wanted: wordOf(wanted[key]), command: 'reload' }
    })
}

function added({ name, listen }: Declaration): Difference {
  return { group: name, what: 'group', running: '-', wanted: listen || 'declared', command: 'reload' }
}

function removed({ name, blueprint }: GroupState): Difference {
  const running = blueprint.declaration.listen || 'declared'
  return { group: name, what: 'group', running, wanted: '-', command: 'reload' }
}

function changes(group: GroupState, wanted: Declaration): Difference[] {
  const { declaration } = group.blueprint
  const { name } = group
  const settings = (Object.keys(wanted) as (keyof Declaration)[])
    .filter((key) => !DERIVED.has(key) && JSON.stringify(declaration[key]) !== JSON.stringify(wanted[key]))
    .map((key) => ({
      group: name,
      what: key,
      running: `${wordOf(declaration[key])}${key === 'count' && group.scaledTo !== null ? ' (scaled)' : ''}`,
      wanted: wordOf(wanted[key]),
      command: commandFor(key, group, wanted),
    }))
  const about = { group: name, wanted: 'running', command: `start ${name}` }
  if (group.isStopped) return [...settings, { ...about, what: 'group', running: 'stopped' }]
  return [...settings, ...processesOf(group)]
}

/** A reload keeps the scaled count unless the code declares another one than before, and the address of who stays. */
function commandFor(setting: keyof Declaration, group: GroupState, wanted: Declaration): string {
  if (setting === 'count' && isOnlyScaled(group, wanted)) return `scale ${group.name} declared`
  return setting === 'listen' && !wanted.reloadable && !group.isStopped ? `restart ${group.name}` : 'reload'
}

/** How the processes differ from what the group is to have by now. */
function processesOf({ name, slots, blueprint }: GroupState): Difference[] {
  const { count, reloadable } = blueprint.declaration
  const numberOf = (is: (handle: WorkerHandle) => boolean) =>
    slots.filter(({ current }) => current !== null && is(current)).length
  const about = { group: name, what: 'processes' }
  const ready = numberOf(({ state }) => state === 'ready')
  const outdated = numberOf(({ isOutdated }) => isOutdated)
  const found: Difference[] = []
  if (outdated > 0)
    found.push({
      ...about,
      running: `${outdated} with the code before`,
      wanted: `${count} with this code`,
      command: reloadable ? 'reload' : `restart ${name}`,
    })
  if (ready !== count) found.push({ ...about, running: `${ready} ready`, wanted: `${count} ready`, command: 'status' })
  return found
}

function isOnlyScaled({ scaledTo, declaredCount }: GroupState, wanted: Declaration): boolean {
  return scaledTo !== null && declaredCount === wanted.count
}

function wordOf(value: unknown): string {
  return typeof value === 'string' ? value || '-' : JSON.stringify(value)
}

/** Start time of the oldest serving process, ms since 1970. */
export function oldestStart(groups: readonly GroupState[]): number | null {
  const ages = groups.flatMap(({ slots }) => slots.flatMap(({ current }) => current?.startedAt ?? []))
  return ages.length === 0 ? null : Date.now() - (now() - Math.min(...ages))
}

// Which files are the code of a program: a change there is a reason to reload.

/** Files it may import. Not data: an app that writes JSON into its folder would make itself reload. */
const CODE = /\.(?:[cm]?[jt]s|[jt]sx|node|wasm)$|^package\.json$/

/** Whether a file of this name is code. */
export function isCode(name: string): boolean {
  return CODE.test(name)
}

/** Whether a folder or file of this name is not the program's own. */
export function isSkipped(name: string): boolean {
  return name === 'node_modules' || name.startsWith('.')
}
