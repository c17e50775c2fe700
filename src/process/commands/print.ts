// Output of commands. What was asked for goes to stdout, everything else to stderr.

import { codeOf } from '../../errors.ts'
import { printableJson } from '../../printable.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { type Paint, paintFor } from '../terminal/style.ts'
import type { Flags } from './line.ts'

/** Prints a line about what was done; omitted with `-q` and `--json`. */
export function say({ quiet, json }: Flags, text: string): void {
  if (quiet !== true && json !== true) process.stdout.write(`${text}\n`)
}

/**
 * Prints the result as it is. It is a failure if it cannot be written (a full disk), but not if the reader has closed
 * the pipe.
 */
export function print(text: string): Promise<Exit> {
  return new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => {
      if (!error || codeOf(error) === 'EPIPE') return resolve(Exit.Ok)
      reject(new CommandError(Exit.Failure, `cannot write to stdout: ${error.message}`))
    })
  })
}

export function show(text: string): Promise<Exit> {
  return print(`${text}\n`)
}

export function showJson(value: unknown): Promise<Exit> {
  return show(printableJson(value, 2))
}

/** Prints a value as JSON or in readable form, coloured if stdout is a terminal. */
export function showAs<T>({ json }: Flags, value: T, render: (value: T, paint: Paint) => string): Promise<Exit> {
  return json === true ? showJson(value) : show(render(value, paintFor(process.stdout)))
}
