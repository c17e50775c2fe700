// One server a module: of several starts one wins, and a lock that a dead master left stops nobody. What stands in
// files is never trusted for a signal.

import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ask as askMaster } from '../../src/process/control/client.ts'
import { isAlive, ownIdentity } from '../../src/process/identity.ts'
import { atLength, caseTest, longTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import { ask, assertGone, echo, inSandbox, lives, portOf, type Sandbox, succeeded } from '../support/server.ts'
import { until } from '../support/until.ts'

const ROUNDS = atLength(1, 5)
const AT_ONCE = atLength(3, 4)

/** Several starts at once: exit codes in order, one 0 and the rest 4; then the winner is stopped. */
async function race(box: Sandbox, module: string): Promise<void> {
  const starts = Array.from({ length: AT_ONCE }, () => box.command('start', '-d', module))
  const outcomes = await Promise.all(starts)
  const codes = outcomes.map(({ code }) => code).sort()
  const said = outcomes.map(({ stderr }) => stderr).join('')
  assert.equal(codes, [0, ...Array(AT_ONCE - 1).fill(4)], said)
  const { pid } = await box.status()
  assert.equal(said.match(/already running, pid \d+/g), Array(AT_ONCE - 1).fill(`already running, pid ${pid}`))
  await box.stop()
  await assertGone(box)
}

test('of several starts at once one wins, the others say who did, with exit code 4', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    for (let round = 0; round < ROUNDS; round++) await race(box, module)
  })
})

longTest('a start that is refused writes nothing into the log of the server that runs', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    await box.start(module, '--log-format', 'json')
    const before = box.log()
    const { code, stderr } = await box.command('start', '-d', module)
    assert.is(code, 4)
    assert.match(stderr, /^millrace: already running, pid \d+\nnext: .*\n$/)
    assert.is(box.log(), before)
    await box.stop()
  })
})

longTest('the same, over the lock and the socket of a master that was killed', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    for (let round = 0; round < ROUNDS; round++) {
      const { pid } = await box.start(module)
      process.kill(pid, 'SIGKILL')
      await race(box, module)
    }
  })
})

/** What a lock, a pid file and a record of workers may hold after an accident, or after an attack. */
const HOSTILE: Record<string, unknown> = {
  'is garbage': 'not json {',
  'is empty': '',
  'is null': null,
  'names every process': { pid: -1, startTime: '' },
  'names our group': { pid: 0, startTime: '' },
  'names init': { pid: 1, startTime: '' },
  'names a dead process': { pid: 2 ** 22 - 1, startTime: '1' },
  'names another process by a pid that was given again': { pid: process.pid, startTime: '1' },
  'has a pid that is text': { pid: '1; rm', startTime: 'x' },
}

longTest('pipes in the place of lock and record, where nobody writes, keep nobody waiting', async () => {
  await inSandbox(async (box) => {
    mkdirSync(box.runDir, { mode: 0o700 })
    for (const name of ['lock', 'workers.json']) execFileSync('mkfifo', [join(box.runDir, name)])
    const { pid } = await box.start(box.file('app.js', echo(1)))
    assert.is(JSON.parse(readFileSync(join(box.runDir, 'lock'), 'utf8')).pid, pid)
    await box.stop()
    mkdirSync(join(box.runDir, 'lock'))
    writeFileSync(join(box.runDir, 'control.sock'), '')
    const { code, stderr } = await box.command('start', '-d', join(box.directory, 'app.js'))
    assert.is(code, 1)
    assert.match(stderr, /control\.sock is there, and is no socket\nnext: .*\(ls -ld \S+control\.sock\) and remove it/)
    rmSync(join(box.runDir, 'control.sock'))
    mkdirSync(join(box.runDir, 'lock'), { recursive: true })
    await box.start(join(box.directory, 'app.js'))
    await box.stop()
  })
})

/** The others are read alike. */
const EVERY_DAY = ['is garbage', 'names every process', 'names another process by a pid that was given again']

for (const [what, content] of Object.entries(HOSTILE)) {
  caseTest(EVERY_DAY.includes(what))(`a lock that ${what} holds nobody off, and nobody is signalled`, async () => {
    await inSandbox(async (box) => {
      const text = typeof content === 'string' ? content : JSON.stringify(content)
      const pid = typeof content === 'object' && content !== null && 'pid' in content ? String(content.pid) : text
      const bystander = box.spawn('sleep', ['1000'])
      mkdirSync(box.runDir, { mode: 0o700 })
      writeFileSync(join(box.runDir, 'lock'), text)
      writeFileSync(join(box.runDir, 'millrace.pid'), `${pid}\n`)
      writeFileSync(join(box.runDir, 'workers.json'), typeof content === 'object' ? `[${text}]` : text)
      assert.is((await box.command('stop')).code, 3)
      await box.start(box.file('app.js', echo(1)))
      await box.stop()
      assert.ok(lives(bystander.pid))
      await bystander.end('SIGKILL')
    })
  })
}

test('a lock whose maker lives holds off, even when nobody answers', async () => {
  await inSandbox(async (box) => {
    mkdirSync(box.runDir, { mode: 0o700 })
    writeFileSync(join(box.runDir, 'lock'), JSON.stringify(ownIdentity()))
    const { code, stderr } = await box.command('start', '-d', box.file('app.js', echo(1)))
    assert.is(code, 4, stderr)
    assert.match(stderr, new RegExp(`already running, pid ${process.pid}`))
    rmSync(join(box.runDir, 'lock'))
  })
})

longTest('a second server is held off in every place where the first one could be', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    const session = join(box.directory, 'session')
    mkdirSync(session, { mode: 0o700 })
    box.env.MILLRACE_RUN_DIR = undefined
    box.env.TMPDIR = box.directory
    const started = succeeded(await box.command('start', '-d', module))
    const [, pid] = /pid (\d+)/.exec(started.stdout) ?? []
    box.env.XDG_RUNTIME_DIR = session // another login of the same user
    const { code, stderr } = await box.command('start', '-d', module)
    assert.is(code, 4)
    assert.match(stderr, new RegExp(`already running, pid ${pid}\n`))
    assert.is((await box.command('stop', module)).code, 0)
  })
})

longTest('two modules are two servers', async () => {
  await inSandbox(async (box) => {
    box.env.MILLRACE_RUN_DIR = undefined
    box.env.TMPDIR = box.directory
    const [one, two] = [box.file('one.js', echo(1)), box.file('two.js', echo(1))]
    for (const module of [one, two]) assert.is((await box.command('start', '-d', module)).code, 0)
    assert.is((await box.command('stop', one)).code, 0)
    assert.is((await box.command('status', one)).code, 3)
    assert.is((await box.command('status', two)).code, 0)
    assert.is((await box.command('stop', two)).code, 0)
  })
})

longTest('a server whose run directory was taken away removes nothing of its successor', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    const first = await box.start(module)
    process.kill(first.pid, 'SIGSTOP') // else it may be quicker, and make it anew
    rmSync(box.runDir, { recursive: true })
    const second = await box.start(module)
    process.kill(first.pid, 'SIGTERM')
    process.kill(first.pid, 'SIGCONT')
    await until(() => !lives(first.pid))
    assert.is((await box.status()).pid, second.pid)
    assert.is(readFileSync(join(box.runDir, 'millrace.pid'), 'utf8'), `${second.pid}\n`)
    assert.is((await box.command('start', '-d', module)).code, 4)
    assert.match(await ask(portOf(second), 'hello'), /^hello/)
    await box.stop()
  })
})

test('a run directory that somebody takes away is made anew, and commands find the server again', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    const { pid } = await box.start(module)
    const files = readdirSync(box.runDir).sort()
    for (const gone of [box.runDir, join(box.runDir, 'lock'), join(box.runDir, 'control.sock')]) {
      rmSync(gone, { recursive: true })
      const isBack = async () =>
        (await box.status().catch(() => null))?.pid === pid && existsSync(join(box.runDir, 'lock'))
      await until(isBack, 20_000)
    }
    assert.is((await box.command('start', '-d', module)).code, 4)
    assert.is(readFileSync(join(box.runDir, 'millrace.pid'), 'utf8'), `${pid}\n`)
    await reload(box)
    assert.equal(readdirSync(box.runDir).sort(), files)
    await box.stop()
  })
})

test('a run directory is not made anew in a folder that others can enter: they could replace it', async () => {
  await inSandbox(async (box) => {
    const [folder, log] = ['millrace', 'app.log'].map((name) => join(box.directory, name)) as [string, string]
    Object.assign(box.env, { MILLRACE_RUN_DIR: undefined, XDG_RUNTIME_DIR: box.directory })
    const module = box.file('app.js', echo(1))
    succeeded(await box.command('start', '-d', module, '--log-file', log))
    rmSync(folder, { recursive: true })
    mkdirSync(folder)
    chmodSync(folder, 0o777)
    await until(
      () => /commands do not find it: .*\/millrace can be entered by others/.test(readFileSync(log, 'utf8')),
      20_000,
    )
    assert.equal(readdirSync(folder), [])
    chmodSync(folder, 0o700)
    await until(() => readFileSync(log, 'utf8').includes('they are made anew'), 20_000)
    succeeded(await box.command('stop', module))
  })
})

longTest('a master whose control socket is gone, and cannot be made anew, is said to be there', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', echo(1)))
    chmodSync(box.runDir, 0o755)
    rmSync(join(box.runDir, 'control.sock'))
    const { code, stderr } = await box.command('status')
    assert.is(code, 7)
    assert.match(stderr, new RegExp(`the master, pid ${pid}, has no control socket: .*/control\\.sock is gone`))
    assert.match(stderr, /next: it is made anew within seconds .*chmod 700/)
    chmodSync(box.runDir, 0o700)
    await until(async () => (await box.status().catch(() => null))?.pid === pid, 20_000)
    await box.stop()
  })
})

test('a master that is suspended is said to be, by every command, with what lets it go on', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', echo(1)))
    process.kill(pid, 'SIGSTOP')
    const outcomes = await Promise.all(['status', 'reload', 'stop'].map((command) => box.command(command)))
    for (const { code, stderr } of outcomes) {
      assert.is(code, 7)
      assert.match(stderr, new RegExp(`the master, pid ${pid}, is suspended .*\nnext: kill -CONT ${pid} lets it go on`))
    }
    process.kill(pid, 'SIGCONT')
    await box.stop()
  })
})

longTest('a master that is suspended is not waited for', async () => {
  await inSandbox(async (box) => {
    mkdirSync(box.runDir, { recursive: true })
    const silent = net.createServer()
    await new Promise<void>((resolve) => silent.listen(join(box.runDir, 'control.sock'), resolve))
    try {
      const looks = [true, true, false, true, true, true] // strace stops it at each system call, for a moment
      const asked = askMaster(
        box.runDir,
        { command: 'ping' },
        60_000,
        process.geteuid?.(),
        () => looks.shift() ?? false,
      )
      const failure = await asked.catch((error) => error)
      assert.is(failure?.exitCode, 7)
      assert.is(looks.length, 0)
    } finally {
      silent.close()
    }
  })
})

test('an identity is a pid and a start time, and never every process', () => {
  const own = ownIdentity()
  assert.ok(isAlive(own))
  assert.not(isAlive({ ...own, startTime: '1' }))
  for (const pid of [-1, 0, -process.pid, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.not(isAlive({ ...own, pid }), String(pid))
    assert.not(isAlive({ pid, startTime: '' }), String(pid))
  }
  assert.not(isAlive({ pid: 1, startTime: '' }))
  const stat = readFileSync('/proc/1/stat', 'latin1')
  const startTime = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  assert.ok(isAlive({ pid: 1, startTime }), 'a master may be the first process of a container')
})

test.run()
