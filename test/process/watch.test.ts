// `start --watch`: whatever changes code below the module's folder is a reload, and code that is broken leaves the old one.

import { mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { sendLogTo } from '../../src/log.ts'
import { nothing } from '../../src/nothing.ts'
import { watchModules } from '../../src/process/operations/watch.ts'
import { longTest } from '../support/length.ts'
import { ask, Client, inSandbox, portOf, type Running, type Sandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

/** Answers with what it imports. */
function program(value = 'parts'): string {
  return `import { Worker } from 'millrace'
    import { parts } from './lib/parts.js'
    const value = ${value}
    const worker = new Worker('text://127.0.0.1:0', { name: 'echo', onMessage: (connection) => connection.send(value.join()) })
    Worker.runAll()`
}

/** A module in a folder of its own that imports from below it. */
function project(box: Sandbox): string {
  box.file('app/lib/parts.js', `export const parts = ['one']`)
  return box.file('app/app.js', program())
}

function watched(box: Sandbox, module: string): Promise<Running> {
  return box.foreground(module, '--watch')
}

/** Waits for the code whose answer this is. */
async function serves(port: number, answer: string): Promise<void> {
  await until(async () => (await ask(port, '?').catch(() => '')) === answer, 60_000)
}

/** Reloads that have ended. */
function reloads({ stderr }: Running): number {
  return stderr.match(/reload: (done|given up)/g)?.length ?? 0
}

async function end(box: Sandbox, server: Running): Promise<void> {
  await box.stop()
  assert.is((await server.ended).code, 0)
}

test('a change is a reload, however it is written; a syntax error is shown with its place, and the old code serves on', async () => {
  await inSandbox(async (box) => {
    const module = project(box)
    const server = await watched(box, module)
    const port = portOf(await box.status())
    await serves(port, 'one')

    box.file('app/lib/parts.js', `export const parts = ['two']`)
    await serves(port, 'two')
    assert.match(server.stderr, /watch: .*app\/lib\/parts\.js changed/)

    box.file('app/app.js', 'import { Worker from "millrace"')
    await server.says(/reload: given up(?:.|\n){0,300}app\.js:1(?:.|\n){0,300}SyntaxError/)
    await server.says(/watch: the old code goes on serving until the next change/)
    assert.is(await ask(port, '?'), 'two')

    box.file('app/.app.js.swp', program(`['three']`)) // as editors do: another file takes the name
    renameSync(join(box.directory, 'app/.app.js.swp'), module)
    await serves(port, 'three')
    await end(box, server)
  })
})

longTest('new folders, folders made anew, links, and the folder itself are followed', async () => {
  await inSandbox(async (box) => {
    const module = project(box)
    const at = (path: string) => join(box.directory, path)
    box.file('elsewhere/linked.js', `export default 'linked'`)
    box.file('outside/deep/file.js', `export default 'outside'`)
    symlinkSync(at('elsewhere/linked.js'), at('app/linked.js'))
    symlinkSync(at('outside'), at('app/outside'))
    symlinkSync(at('app'), at('app/lib/again')) // a circle
    const server = await watched(box, module)
    const port = portOf(await box.status())
    const turn = async (change: () => void, answer: string) => {
      change()
      await serves(port, answer)
    }
    const import_ = (path: string) => program(`['${path}', await import('./${path}').then((m) => m.default)]`)

    mkdirSync(at('app/new/deep'), { recursive: true })
    await turn(() => {
      box.file('app/new/deep/file.js', `export default 'a'`)
      box.file('app/app.js', import_('new/deep/file.js'))
    }, 'new/deep/file.js,a')
    await turn(() => void box.file('app/new/deep/file.js', `export default 'b'`), 'new/deep/file.js,b')

    rmSync(at('app/new'), { recursive: true })
    await turn(() => void box.file('app/new/deep/file.js', `export default 'c'`), 'new/deep/file.js,c')
    await turn(() => void box.file('app/new/deep/file.js', `export default 'd'`), 'new/deep/file.js,d')

    await turn(() => void box.file('app/app.js', import_('linked.js')), 'linked.js,linked')
    await turn(() => void box.file('elsewhere/linked.js', `export default 'changed'`), 'linked.js,changed')
    await turn(() => void box.file('app/app.js', import_('outside/deep/file.js')), 'outside/deep/file.js,outside')
    await turn(() => void box.file('outside/deep/file.js', `export default 'more'`), 'outside/deep/file.js,more')

    renameSync(at('app'), at('app.old')) // a build that begins with `rm -rf`
    await turn(() => void project(box), 'one')
    await turn(() => void box.file('app/lib/parts.js', `export const parts = ['last']`), 'last')
    await end(box, server)
  })
})

test('a storm of changes is few reloads, one after the other, and the last state is what serves, whatever was half written before', async () => {
  await inSandbox(async (box) => {
    const server = await watched(box, project(box))
    const port = portOf(await box.status())
    const client = await Client.connect(port) // who stays keeps nobody waiting for its drain
    for (let n = 0; n < 300; n++) {
      box.file(`app/lib/file-${n}.js`, '')
      box.file('app/lib/parts.js', `export const parts = ['${n}']`)
    }
    await serves(port, '299')
    await until(async () => (await box.status()).groups[0]?.workers.length === 1)
    assert.ok(reloads(server) <= 20, `${reloads(server)} reloads`)
    client.close()
    await end(box, server)
  })
})

test("data, logs, hidden files and node_modules are nobody's change", async () => {
  await inSandbox(async (box) => {
    const module = project(box)
    box.file('app/node_modules/some/index.js', '')
    const log = join(box.directory, 'app/server.log')
    box.env.MILLRACE_RUN_DIR = join(box.directory, 'app/run')
    const server = await box.foreground(module, '--watch', '--log-file', log)
    const port = portOf(await box.status())
    for (const path of ['data.json', '.git/index.js', 'node_modules/some/index.js', 'page.html', 'run/x.js', 'app.db'])
      box.file(`app/${path}`, String(Math.random()))
    box.file('app/lib/parts.js', `export const parts = ['two']`) // what comes after them has been seen after them
    await serves(port, 'two')
    await until(() => reloads(server) === 1)
    rmSync(join(box.directory, 'app/run/x.js'))
    box.file('app/package.json', `{ "type": "module" }`)
    await until(() => reloads(server) === 2)
    const changes = server.stderr.match(/watch: .* changed/g) ?? []
    assert.is(changes.length, 2)
    assert.match(changes[0] ?? '', /watch: \S*lib\/parts\.js changed/)
    assert.match(readFileSync(log, 'utf8'), /watch: /)
    await end(box, server)
    writeFileSync(log, '')
  })
})

test('a folder with code in which a file takes the place of a folder: that is a change, and the watching goes on', async () => {
  await inSandbox(async (box) => {
    let changes = 0
    const reload = async () => {
      changes++
      return ''
    }
    const unwatch = watchModules({ modules: [box.file('app.js', '')], ignored: [], reload })
    const change = async (make: () => void) => {
      const before = changes
      make()
      await until(() => changes > before)
    }
    const lib = join(box.directory, 'lib')
    sendLogTo(nothing)
    try {
      for (let turn = 0; turn < 5; turn++) {
        await change(() => void box.file('lib/sub/x.js', ''))
        await change(() => {
          rmSync(lib, { recursive: true })
          if (turn % 2 === 0) box.file('lib', '')
          else symlinkSync('app.js', lib)
        })
        rmSync(lib)
      }
    } finally {
      unwatch()
      sendLogTo(null)
    }
  })
})

test('--watch with -d is a contradiction: exit code 2', async () => {
  await inSandbox(async (box) => {
    const { code, stderr } = await box.command('start', '-d', '--watch', project(box))
    assert.is(code, 2)
    assert.match(stderr, /--watch is for development/)
  })
})

test.run()
