// The names of the commands, for code that must tell a command from another word without loading the commands.

const COMMAND_NAMES = [
  'start',
  'stop',
  'restart',
  'reload',
  'scale',
  'upgrade',
  'status',
  'connections',
  'logs',
  'events',
  'diff',
  'check',
] as const

export type CommandName = (typeof COMMAND_NAMES)[number]

/** Whether the first word of these arguments is a command. */
export function namesCommand(argv: readonly string[]): boolean {
  const word = argv.find((arg) => !arg.startsWith('-'))
  return COMMAND_NAMES.some((name) => name === word)
}
