// The built examples, made to listen on a free port.

import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import * as assert from 'uvu/assert'
import { type Sandbox, startFile } from './server.ts'

export const folder: string = join(startFile, '../examples')

/** A copy of an example on a free port, with the page that belongs to it. */
export function example(box: Sandbox, name: string): string {
  const source = readFileSync(join(folder, `${name}.js`), 'utf8')
  const page = join(folder, dirname(name), 'page.html')
  if (existsSync(page)) box.file(join(dirname(name), 'page.html'), readFileSync(page, 'utf8'))
  assert.match(source, /:\/\/[\d.]+:8888/)
  return box.file(`${name}.js`, source.replaceAll(/:\/\/[\d.]+:8888/g, '://127.0.0.1:0'))
}
