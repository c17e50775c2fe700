// `help`, `--help` and the usage below an error, generated from what the commands declare.

import type { Command } from './command.ts'
import { COMMON_FLAGS, FLAGS, type Flag, type FlagName } from './line.ts'

type Commands = ReadonlyMap<string, Command>

const EXIT_CODES =
  'Exit codes: 0 done, 1 failure, 2 usage, 3 not running, 4 already running, 5 address, 6 module or boot, 7 time-out\n'

/** The whole help: all commands, and all flags with the commands that accept them. */
export function overview(commands: Commands): string {
  const rows = [...commands].map(([name, { summary }]) => [name, summary] as const)
  const more = [
    ['help [COMMAND]', 'this text, or what a command does and which flags it knows'],
    ['--version', 'the version'],
  ] as const
  const known = new Set([...COMMON_FLAGS, ...[...commands.values()].flatMap(({ flags }) => flags)])
  const names = (Object.keys(FLAGS) as FlagName[]).filter((name) => known.has(name) && name !== 'help')
  return [
    'Usage: millrace <command> [flags] [app.js] [NAME] [-- arguments of the app]\n',
    'Commands:',
    ...columns([...rows, ...more]),
    '\nNAME is a group: the name of its Worker, or its address as declared.\n',
    'Flags, in any order:',
    ...columns(names.map((name) => [flagLabel(name), `${knownBy(name, commands)}${flagText(name)}`] as const)),
    `\n${EXIT_CODES}`,
  ].join('\n')
}

/** The help of one command. */
export function helpOf(name: string, { operands, summary, details, flags }: Command): string {
  return [
    `${usageOf(name, operands)}\n`,
    `${summary[0]?.toUpperCase()}${summary.slice(1)}.\n${details}\n`,
    'Flags, in any order:',
    ...columns([...flags, ...COMMON_FLAGS].map((flag) => [flagLabel(flag), flagText(flag)] as const)),
    `\n${EXIT_CODES}`,
  ].join('\n')
}

export function usageOf(name: string, operands: string): string {
  return `Usage: millrace ${name} [flags] ${operands}`.trimEnd()
}

function knownBy(flag: FlagName, commands: Commands): string {
  if (COMMON_FLAGS.includes(flag)) return ''
  const who = [...commands].flatMap(([name, { flags }]) => (flags.includes(flag) ? [name] : []))
  return `${who.join(', ')}: `
}

function flagLabel(name: FlagName): string {
  const { short, value }: Flag = FLAGS[name]
  return `${short === undefined ? '   ' : `-${short},`} --${name}${value === undefined ? '' : ` ${value}`}`
}

function flagText(name: FlagName): string {
  const { text, env }: Flag = FLAGS[name]
  return env === undefined ? text : `${text}  (${env})`
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...rows.map(([left]) => left.length))
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`)
}
