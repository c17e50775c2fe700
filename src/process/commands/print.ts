// What a command says. What was asked for goes to stdout, everything else to stderr.

import { codeOf } from '../../errors.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { type Paint, paintFor } from '../terminal/style.ts'
import type { Flags } from './line.ts'

/** A line about what was done; `-q` and `--json` do without. */
export function say({ quiet, json }: Flags, text: string): void {
  if (quiet !== true && json !== true) process.stdout.write(`${text}\n`)
}

export function print(text: string): Exit {
  process.stdout.write(text)
  return Exit.Ok
}

/** Prints what was asked for: if it does not arrive (a full disk), that is a failure. A reader that has seen enough is not. */
export function show(text: string): Promise<Exit> {
  return new Promise((resolve, reject) => {
    process.stdout.write(`${text}\n`, (error) => {
      if (!error || codeOf(error) === 'EPIPE') return resolve(Exit.Ok)
      reject(new CommandError(Exit.Failure, `cannot write to stdout: ${error.message}`))
    })
  })
}

export function showJson(value: unknown): Promise<Exit> {
  return show(JSON.stringify(value, null, 2))
}

/** As JSON or as people read it, coloured where stdout is a terminal. */
export function showAs<T>({ json }: Flags, value: T, render: (value: T, paint: Paint) => string): Promise<Exit> {
  return json === true ? showJson(value) : show(render(value, paintFor(process.stdout)))
}
