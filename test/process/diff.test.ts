// `diff`: what runs against what the code on disk says, with the exit codes of diff(1).

import { existsSync, mkdirSync, renameSync, symlinkSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { longTest } from '../support/length.ts'
import { reload, version } from '../support/reload.ts'
import { freePort, inSandbox, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

async function diff(box: Sandbox) {
  const { code, stdout, stderr } = await box.command('diff', '--json')
  const { isSame, differences, changedFiles } = JSON.parse(stdout)
  assert.is(code, isSame ? 0 : 1, stderr)
  const lines = (differences as Record<string, string>[]).map(
    ({ group, what, running, wanted }) => `${group} ${what}: ${running} -> ${wanted}`,
  )
  return { isSame, lines, changedFiles: changedFiles as string[] }
}

test('counts, settings, groups and files that differ are named until a reload makes it so', async () => {
  await inSandbox(async (box) => {
    box.file('lib/part.js', '// v1')
    const old = `new Worker('', { name: 'old' })`
    const module = box.file('app.js', version(1, 2, old))
    symlinkSync('loop.js', join(box.directory, 'loop.js')) // ELOOP: leads nowhere, and changes nothing
    const before = await box.start(module)
    assert.equal(await diff(box), { isSame: true, lines: [], changedFiles: [] })
    assert.is(succeeded(await box.command('diff')).stdout, 'What runs is what the code says.\n')

    const more = `worker.drainTimeoutMs = 5000; new Worker('', { name: 'fresh' })`
    box.file('app.js', version(2, 3, more))
    const part = box.file('lib/part.js', '// v2')
    box.file('node_modules/x/index.js', '// of others')
    box.file('data.json', '{ "written": "by the program" }')
    const found = await diff(box)
    assert.equal(found, {
      isSame: false,
      lines: [
        ...['echo count: 2 -> 3', 'echo drainTimeoutMs: 30000 -> 5000'],
        ...['fresh group: - -> declared', 'old group: declared -> -'],
      ],
      changedFiles: [module, part],
    })
    const { stdout, code } = await box.command('diff')
    assert.is(code, 1)
    assert.match(stdout, /^group +what +running +wanted\necho +count +2 +3\n/)
    assert.match(stdout, /^next: 'millrace reload' makes it so/m)
    assert.equal(
      workersOf(await box.status()).map(({ pid }) => pid),
      workersOf(before).map(({ pid }) => pid),
    )
    await reload(box)
    assert.ok((await diff(box)).isSame)

    succeeded(await box.command('scale', 'echo', '4'))
    succeeded(await box.command('stop', 'fresh'))
    assert.equal((await diff(box)).lines, ['echo count: 4 (scaled) -> 3', 'fresh group: stopped -> running'])
    const { stdout: asked } = await box.command('diff')
    assert.match(asked, /^next: 'millrace scale echo declared' makes it so, 'millrace start fresh' makes it so$/m)
    box.file('app.js', 'const = 1')
    const broken = await box.command('diff')
    assert.is(broken.code, 6)
    assert.match(broken.stderr, /SyntaxError/)
    await box.stop()
    assert.is((await box.command('diff')).code, 3)
  })
})

test('settings of the server differ, too, except where a flag says what they are', async () => {
  await inSandbox(async (box) => {
    const settings = (text: string) => box.file('settings.json', text) // no code: no file has changed
    const [health, log] = [`unix://${box.runDir}/health.sock`, join(box.directory, 'other.log')]
    settings('{}')
    const program = `
      const { readFileSync } = await import('node:fs')
      Object.assign(Worker, JSON.parse(readFileSync(import.meta.dirname + '/settings.json')))`
    await box.start(box.file('app.js', version(1, 1, program)), '--log-file', join(box.directory, 'one.log'))
    assert.ok((await diff(box)).isSame)
    settings(JSON.stringify({ health, stopTimeout: 1.5, unhandledRejection: 'log', logFile: log }))
    const lines = ['stopTimeoutMs: 2000 -> 1500', 'unhandledRejection: exit -> log', `health: - -> ${health}`]
    assert.equal((await diff(box)).lines.sort(), lines.map((line) => `- ${line}`).sort())
    await reload(box)
    assert.ok((await diff(box)).isSame)
    await box.stop()
  })
})

/** Whoever evaluates this first after the file was made does not come to an end. */
const hangsOnce = (flag: string) => `
  const { existsSync, rmSync } = await import('node:fs')
  if (existsSync('${flag}')) {
    rmSync('${flag}')
    await new Promise((resolve) => setTimeout(resolve, 60_000))
  }`

for (const [what, end, code, said] of [
  ['an upgrade', async (box: Sandbox) => void succeeded(await box.command('upgrade')), 0, /^$/],
  ['a stop', (box: Sandbox) => box.stop(), 1, /the server is being stopped/],
] as const) {
  test(`a diff that ${what} interrupts does not blame the code`, async () => {
    await inSandbox(async (box) => {
      const flag = join(box.directory, 'hang')
      await box.start(box.file('app.js', version(1, 1, hangsOnce(flag))))
      box.file('hang', '')
      const asked = box.begin('diff', '-q')
      await until(() => !existsSync(flag))
      await end(box)
      const outcome = await asked.ended
      assert.is(outcome.code, code, outcome.stderr)
      assert.match(outcome.stderr, said)
      if (code === 0) await box.stop()
    })
  })
}

test('code that was put in place by a rename, or behind a link, has changed although it is older', async () => {
  await inSandbox(async (box) => {
    for (const release of ['one', 'two']) {
      mkdirSync(join(box.directory, release))
      box.file(`${release}/app.js`, version(1, 1))
    }
    const spare = box.file('two/spare.js', '// older than the server')
    const link = join(box.directory, 'current')
    symlinkSync('one', link)
    await box.start(join(link, 'app.js'))
    assert.ok((await diff(box)).isSame)
    unlinkSync(link)
    symlinkSync('two', link)
    assert.equal((await diff(box)).changedFiles, [join(box.directory, 'two/app.js')])
    await reload(box)
    assert.ok((await diff(box)).isSame)
    const moved = join(box.directory, 'two/moved.js')
    renameSync(spare, moved)
    assert.equal((await diff(box)).changedFiles, [moved])
    await box.stop()
  })
})

longTest(
  'processes that a reload has not come to before it was given up are told from those that it has replaced',
  async () => {
    await inSandbox(async (box) => {
      const [one, two] = [await freePort(), await freePort()]
      const settings = (port: number, broken: number) => box.file('settings.json', JSON.stringify({ port, broken }))
      const file = settings(one, -1)
      const module = box.file(
        'app.js',
        `import { readFileSync } from 'node:fs'
       import { Worker } from 'millrace'
       const { port, broken } = JSON.parse(readFileSync('${file}', 'utf8'))
       const worker = new Worker('text://127.0.0.1:' + port, { name: 'echo', count: 3 })
       worker.onWorkerStart = () => { if (worker.id === broken) throw new Error('planted') }
       Worker.runAll()`,
      )
      const addresses = async () => workersOf(await box.status()).map(({ address }) => address)
      await box.start(module)
      settings(two, 1)
      assert.is((await box.command('reload')).code, 6)
      assert.equal(await addresses(), [`127.0.0.1:${two}`, `127.0.0.1:${one}`, `127.0.0.1:${one}`])
      assert.equal((await diff(box)).lines, ['echo processes: 2 with the code before -> 3 with this code'])
      const { stdout } = await box.command('diff')
      assert.match(stdout, /^next: 'millrace reload' makes it so$/m)
      const { stdout: status } = await box.command('status')
      assert.match(status, new RegExp(` 127.0.0.1:${two} +echo +0 .*\n.* 127.0.0.1:${one} +echo +1 `))
      assert.match(status, /^echo has 2 processes with the code before: a reload was given up on the way$/m)
      settings(two, -1)
      await reload(box)
      assert.equal(await addresses(), Array(3).fill(`127.0.0.1:${two}`))
      assert.ok((await diff(box)).isSame)
      await box.stop()
    })
  },
)

longTest('once a reload has replaced one group, those it did not come to have the code before, too', async () => {
  await inSandbox(async (box) => {
    const flag = join(box.directory, 'broken')
    const more = `
      const { existsSync } = await import('node:fs')
      const other = new Worker('', { name: 'other', count: 2 })
      other.onWorkerStart = () => { if (existsSync('${flag}')) throw new Error('planted') }
      new Worker('', { name: 'last' })
      new Worker('', { name: 'kept', reloadable: false })`
    await box.start(box.file('app.js', version(1, 1, more)))
    box.file('broken', '')
    assert.is((await box.command('reload', 'other')).code, 6)
    assert.ok((await diff(box)).isSame, 'nothing has been replaced')
    assert.is((await box.command('reload')).code, 6)
    const before = (name: string, count: number) =>
      `${name} processes: ${count} with the code before -> ${count} with this code`
    assert.equal((await diff(box)).lines, [before('other', 2), before('last', 1)])
    assert.match((await box.command('status')).stdout, /^other has 2 processes with the code before/m)
    unlinkSync(flag)
    await reload(box)
    assert.ok((await diff(box)).isSame)
    await box.stop()
  })
})

test.run()
