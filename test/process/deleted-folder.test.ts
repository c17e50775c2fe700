// A release folder is pruned while its server runs: neither the server nor a command may need the folder that it was
// started in, although `process.cwd()` throws there.

import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { upgrade } from '../support/release.ts'
import { ask, echo, inSandbox, type Outcome, portOf, type Sandbox, startFile, succeeded } from '../support/server.ts'
import { within } from '../support/until.ts'

/** Runs commands in a new folder, which is deleted before or after the first of them begins. */
function inFolder(box: Sandbox, name: string, script: string): Promise<Outcome> {
  const folder = join(box.directory, name)
  return within(30_000, box.spawn('sh', ['-c', `mkdir '${folder}' && cd '${folder}' && ${script}`]).ended)
}

const millrace = (...args: string[]) => [process.execPath, startFile, ...args].map((word) => `'${word}'`).join(' ')

test('an upgrade of a server whose start folder is gone goes well, and the new master stays', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1, 'worker.drainTimeoutMs = 500'))
    succeeded(await inFolder(box, 'release', `${millrace('start', '-d', module)} && rmdir ../release`))
    const before = await box.status()
    const { pid } = await upgrade(box, module)
    const after = await box.status()
    assert.is(after.pid, pid)
    assert.is.not(after.pid, before.pid)
    assert.match(await ask(portOf(after), 'x'), /^x /)
    await box.stop()
  })
})

test('commands work in a folder that is gone, and say what is wrong as elsewhere', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo())
    const gone = (name: string, ...args: string[]) =>
      inFolder(box, name, `rmdir ../${name} && exec ${millrace(...args)}`)
    const early = await gone('a', 'status', module)
    assert.is(early.code, 3)
    assert.match(early.stderr, new RegExp(`next:.* start it: millrace start -d ${module}\n`))
    const started = succeeded(await gone('b', 'start', '-d', module))
    assert.match(started.stdout, new RegExp(`Stop it with: node ${startFile} stop ${module}\n`))
    assert.is((await gone('c', 'start', '-d', module)).code, 4)
    const unknown = await gone('d', 'stop', module, 'jobs')
    assert.is(unknown.code, 2)
    assert.match(unknown.stderr, /no group 'jobs'/)
    succeeded(await gone('e', 'restart', module, 'echo'))
    const direct = await inFolder(box, 'f', `rmdir ../f && exec '${process.execPath}' '${module}' start`)
    assert.is(direct.code, 4)
    succeeded(await gone('g', 'stop', module))
    const file = await gone('h', 'start', 'app.js')
    assert.is(file.code, 1)
    assert.match(file.stderr, /current folder has been deleted.*\nnext:.* absolute paths/)
  })
})

test.run()
