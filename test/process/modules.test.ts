// Several modules in one start: one server with the groups of all, whatever each of them does at its top level.

import { rmSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { caseTest } from '../support/length.ts'
import { ask, inSandbox, succeeded } from '../support/server.ts'

/** A module with one group. */
function part(name: string, more = '', isLast = true): string {
  return `
    import { Worker } from 'millrace'
    ${more}
    const worker = new Worker('text://127.0.0.1:0', { name: '${name}' })
    worker.onMessage = (connection, line) => connection.send('${name} ' + line)
    ${isLast ? 'Worker.runAll()' : ''}`
}

for (const [what, a, b] of [
  ['that both call runAll', part('a'), part('b')],
  ['of which the first calls runAll', part('a'), part('b', '', false)],
  ['of which the last calls runAll', part('a', '', false), part('b')],
  ['that wait at their top level', part('a', `await new Promise((r) => setTimeout(r, 20))`), part('b', 'await 0')],
] as const) {
  caseTest(what === 'that wait at their top level')(`two modules ${what} are one server`, async () => {
    await inSandbox(async (box) => {
      const { groups } = await box.start(box.file('a.js', a), box.file('b.js', b))
      assert.equal(groups.map(({ name }) => name).sort(), ['a', 'b'])
      for (const { name, port } of groups) assert.is(await ask(port, 'x'), `${name} x`)
      box.file('b.js', part('c'))
      await box.operate({ command: 'reload' })
      const after = await box.status()
      assert.equal(after.groups.map(({ name }) => name).sort(), ['a', 'c'])
      for (const { name, port } of after.groups) assert.is(await ask(port, 'x'), `${name} x`)
      await box.stop()
    })
  })
}

test('equal names and addresses in two modules are two groups', async () => {
  await inSandbox(async (box) => {
    const { groups } = await box.start(box.file('a.js', part('same')), box.file('b.js', part('same')))
    assert.is(groups.length, 2)
    assert.not.equal(groups[0]?.port, groups[1]?.port)
    await box.operate({ command: 'reload' })
    for (const { port } of (await box.status()).groups) assert.is(await ask(port, 'x'), 'same x')
    await box.stop()
  })
})

test('one that is broken ends the start of all, by name', async () => {
  await inSandbox(async (box) => {
    const [a, b] = [box.file('a.js', part('a')), box.file('b.js', `throw new Error('planted')`)]
    const { code, stderr } = await box.command('start', '-d', a, b)
    assert.is(code, 6)
    assert.match(stderr, /planted\n +at .*b\.js/)
    const missing = await box.command('start', '-d', a, `${a}.gone`)
    assert.is(missing.code, 6)
    assert.match(missing.stderr, /a\.js\.gone/)
  })
})

test('a command that names a module of another server than the one it finds is refused', async () => {
  await inSandbox(async (box) => {
    for (const of of ['1', '2']) box.file(`releases/${of}/app.js`, part('a'))
    const b = box.file('b.js', part('b'))
    const [link, one, two] = ['current', 'releases/1', 'releases/2'].map((name) => join(box.directory, name, 'app.js'))
    symlinkSync('releases/1', dirname(link as string))
    const before = await box.start(link as string, b)
    rmSync(dirname(link as string))
    symlinkSync('releases/2', dirname(link as string))
    const other = box.file('other.js', part('other'))
    for (const command of ['stop', 'reload', 'diff', 'upgrade', 'status', 'logs', 'restart']) {
      const { code, stderr } = await box.command(command, other)
      assert.is(code, 2, `${command}: ${stderr}`)
      assert.match(stderr, /the server in .*run, pid \d+, runs .*current\/app\.js .*b\.js, not .*other\.js/)
    }
    for (const line of [['start'], ['start', '-d']]) {
      const { code, stderr } = await box.command(...line, other)
      assert.is(code, 2, stderr)
      assert.match(stderr, /pid \d+, runs .*current\/app\.js .*b\.js, not .*other\.js\n/)
      if (line.includes('-d')) assert.match(stderr, /\nnext: name what it runs, /)
    }
    const codeOf = async (...line: string[]) =>
      (JSON.parse((await box.command(...line, '--json')).stdout) as { error: { code: string } }).error.code
    assert.is(await codeOf('stop', other), 'ERR_OTHER_MODULE')
    assert.is(await codeOf('start', '-d', other), 'ERR_OTHER_MODULE')
    assert.is(await codeOf('start', '-d', two as string), 'ERR_ALREADY_RUNNING')
    // named as at the start, by the path that it had then, by the one it has now, by another of its modules, or not
    for (const name of [link, one, two, b]) succeeded(await box.command('status', name as string))
    assert.is((await box.status()).pid, before.pid)
    await box.stop()
  })
})

test.run()
