// `upgrade`: another process becomes the master, and takes everything over. Whoever is connected notices nothing.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { release, upgrade } from '../support/release.ts'
import { ask, echo, inSandbox, lives, portOf, workersOf } from '../support/server.ts'

test('a new version takes over: its own pid, its own version, the same port', async () => {
  await inSandbox(async (box) => {
    release(box, '1.0.0')
    const module = box.file('app.js', echo(2))
    const before = await box.start(module)
    assert.is(before.version, '1.0.0')
    release(box, '1.1.0')
    const outcome = await upgrade(box, module)
    const after = await box.status()
    assert.is(outcome.version, '1.1.0')
    assert.is(outcome.pid, after.pid)
    assert.is(after.version, '1.1.0')
    assert.is.not(after.pid, before.pid)
    assert.is(portOf(after), portOf(before))
    assert.match(await ask(portOf(after), 'x'), /^x /)
    assert.not(lives(before.pid))
    assert.is(readFileSync(join(box.runDir, 'millrace.pid'), 'utf8'), `${after.pid}\n`)
    await box.stop()
  })
})

test.run()
