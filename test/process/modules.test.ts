// Several modules in one start: one server with the groups of all, whatever each of them does at its top level.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { caseTest } from '../support/length.ts'
import { ask, inSandbox } from '../support/server.ts'

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

test.run()
