// One group of a server by its name: stop, start, reload, restart, while the others go on.

import { existsSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Followed } from '../support/events.ts'
import { caseTest, longTest } from '../support/length.ts'
import {
  ask,
  Client,
  freePort,
  inSandbox,
  lives,
  type Sandbox,
  startFile,
  succeeded,
  workersOf,
} from '../support/server.ts'
import { until } from '../support/until.ts'

/** Two groups that answer with their name and version; `more` may change them. */
function two(version: number, ports: readonly number[], more = ''): string {
  return `
    import { Worker } from 'millrace'
    const answer = (name) => (connection, line) => connection.send(line + ' ' + name + ' ${version}')
    const a = new Worker('text://127.0.0.1:${ports[0]}', { name: 'a' })
    const b = new Worker('text://127.0.0.1:${ports[1]}', { name: 'b', count: 2 })
    a.onMessage = answer('a')
    b.onMessage = answer('b')
    ${more}
    Worker.runAll()`
}

/** What a process of 'b' listens on besides is bound anew with the group. */
const INNER = `b.onWorkerStart = async () => {
  const inner = new Worker('text://127.0.0.2:0')
  inner.onMessage = answer('inner')
  await inner.listen()
}`

async function pidsOf(box: Sandbox, name: string): Promise<number[]> {
  const { groups } = await box.status()
  return groups.filter((group) => group.name === name).flatMap(({ workers }) => workers.map(({ pid }) => pid))
}

function refusal(port: number): Promise<unknown> {
  return Client.connect(port).then(
    (client) => client.close(),
    ({ code }) => code,
  )
}

test('a stopped group has no process and no port, is shown as stopped, and stays so until somebody starts it', async () => {
  await inSandbox(async (box) => {
    const ports = [await freePort(2)].flatMap((port) => [port, port + 1])
    const [portA = 0, portB = 0] = ports
    await box.start(box.file('app.js', two(1, ports, INNER)))
    const [before, pidsA, pidsB] = [await Client.connect(portB), await pidsOf(box, 'a'), await pidsOf(box, 'b')]
    await before.ask('x')
    const { stdout } = succeeded(await box.command('stop', 'b'))
    assert.match(stdout, /^b:0 +stopped .*\nb:1 +stopped .*\nstopped in \d/m)
    await until(() => before.isClosed)
    for (const pid of pidsB) assert.not(lives(pid))
    assert.is(await refusal(portB), 'ECONNREFUSED')
    assert.is(await ask(portA, 'x'), 'x a 1')
    assert.equal(await pidsOf(box, 'a'), pidsA)
    const { groups } = await box.status()
    assert.equal(
      groups.map(({ name, isStopped, workers }) => [name, isStopped, workers.map(({ state }) => state)]),
      [
        ['a', false, ['ready']],
        ['b', true, ['stopped', 'stopped']],
      ],
    )
    assert.match(
      succeeded(await box.command('status')).stdout,
      /\[stopped\]\n[\s\S]*^b is stopped: 'millrace start b' starts it$/m,
    )
    succeeded(await box.command('stop', 'b')) // it is
    for (const flags of [['--log-file', 'other.log'], ['-d'], ['--user', 'nobody']]) {
      const { code, stderr } = await box.command('start', 'b', ...flags)
      assert.is(code, 2)
      assert.match(stderr, /--(log-file|daemon|user) is for the whole server, not for b/)
    }

    box.file('app.js', two(2, ports, INNER))
    await box.operate({ command: 'reload' })
    assert.is(await ask(portA, 'x'), 'x a 2')
    assert.is(await refusal(portB), 'ECONNREFUSED')
    succeeded(await box.command('scale', 'b', '3')) // for later
    succeeded(await box.command('start', 'b'))
    assert.is(await ask(portB, 'x'), 'x b 2')
    assert.is((await pidsOf(box, 'b')).filter((pid) => pid !== 0).length, 3)
    const again = await box.command('start', 'b')
    assert.is(again.code, 4)
    assert.match(again.stderr, /^millrace: start given up: b is running\nnext: 'millrace reload b'/m)
    for (const command of ['reload', 'restart']) {
      succeeded(await box.command('stop', 'b', '--timeout', '0.1'))
      assert.is(await refusal(portB), 'ECONNREFUSED')
      succeeded(await box.command(command, 'b'))
      assert.is(await ask(portB, 'x'), 'x b 2')
    }
    succeeded(await box.command('stop', 'a', 'b'))
    assert.ok(workersOf(await box.status()).every(({ state }) => state === 'stopped'))
    await box.stop()
  })
})

longTest(
  'a stopped group that cannot be started stays stopped, and a crash during its stop starts nothing',
  async () => {
    await inSandbox(async (box) => {
      const ports = [0, 0]
      await box.start(box.file('app.js', two(1, ports, `b.onWorkerStop = () => process.exit(250)`)))
      succeeded(await box.command('stop', 'b'))
      const followed = await Followed.of(box)
      box.file('app.js', two(2, ports, `b.onWorkerStart = () => { if (b.id === 1) throw new Error('planted') }`))
      const { code, stderr } = await box.command('start', 'b')
      assert.is(code, 6)
      assert.match(stderr, /^millrace: start given up: worker b:1 did not become ready: .*planted/m)
      const { groups } = await box.status()
      assert.ok(groups[1]?.isStopped && groups[1].workers.every(({ state }) => state === 'stopped'))
      assert.is(followed.words.filter((word) => word === 'spawn').length, 2)
      followed.close()
      await box.stop()
    })
  },
)

longTest('a stopped group whose new process ends as soon as it serves stays stopped', async () => {
  await inSandbox(async (box) => {
    const ports = [0, await freePort()]
    await box.start(box.file('app.js', two(1, ports)))
    succeeded(await box.command('stop', 'b'))
    box.file('app.js', two(2, ports, `b.onWorkerActive = () => { if (b.id === 0) throw new Error('planted') }`))
    for (const _ of ['at first', 'again']) {
      const { code, stderr } = await box.command('start', 'b')
      assert.is(code, 6, stderr)
      assert.match(
        stderr,
        /^millrace: start given up: worker b:0 pid \d+, which had just started, has ended: .*planted/m,
      )
      const { groups } = await box.status()
      assert.ok(groups[1]?.isStopped && groups[1].workers.every(({ state }) => state === 'stopped'))
      assert.is(await refusal(ports[1] ?? 0), 'ECONNREFUSED')
    }
    box.file('app.js', two(3, ports))
    succeeded(await box.command('start', 'b'))
    assert.is(await ask(ports[1] ?? 0, 'x'), 'x b 3')
    await box.stop()
  })
})

test('reload NAME replaces only the processes of that group', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', two(1, [0, 0])))
    const [pidsA, pidsB] = [await pidsOf(box, 'a'), await pidsOf(box, 'b')]
    const { groups } = await box.status()
    const third = `new Worker('text://127.0.0.1:0', { name: 'c' })`
    box.file('app.js', two(2, [0, 0], third))
    const { stdout } = succeeded(await box.command('reload', 'b', '--json'))
    assert.equal(
      JSON.parse(stdout).slots.map(({ worker }: { worker: string }) => worker),
      ['b:0', 'b:1'],
    )
    const after = await box.status()
    assert.equal(await pidsOf(box, 'a'), pidsA)
    for (const pid of await pidsOf(box, 'b')) assert.not(pidsB.includes(pid))
    assert.equal(
      after.groups.map(({ name, port }) => [name, port]),
      groups.map(({ name, port }) => [name, port]),
    )
    assert.is(await ask(after.groups[0]?.port ?? 0, 'x'), 'x a 1')
    assert.is(await ask(after.groups[1]?.port ?? 0, 'x'), 'x b 2')
    succeeded(await box.command('reload', 'c')) // it is new
    assert.is((await pidsOf(box, 'c')).length, 1)

    box.file('app.js', two(3, [0, 0]))
    const gone = await box.command('reload', 'c')
    assert.is(gone.code, 2)
    assert.match(
      gone.stderr,
      /the code on disk does not declare 'c' any more\nnext: a reload without a name removes it/,
    )
    assert.is((await pidsOf(box, 'c')).length, 1)
    const unknown = await box.command('reload', 'd', '--json')
    assert.is(unknown.code, 2)
    assert.is(JSON.parse(unknown.stdout).error.code, 'ERR_NO_GROUP')
    assert.match(JSON.parse(unknown.stdout).error.reason, /there is no group 'd'; there is: a .*, b .*, c /)
    await box.stop()
  })
})

test('restart NAME: broken code stops nothing; all leave, and who connects meanwhile is served', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', two(1, [0, 0])))
    const port = (await box.status()).groups[1]?.port ?? 0
    const [pidsA, pidsB] = [await pidsOf(box, 'a'), await pidsOf(box, 'b')]
    box.file('app.js', 'const = 1')
    assert.is((await box.command('restart', 'b')).code, 6)
    assert.equal(await pidsOf(box, 'b'), pidsB)
    const slow = `b.onWorkerStop = () => new Promise((done) => setTimeout(done, 300))`
    box.file('app.js', two(1, [0, 0], slow))
    succeeded(await box.command('restart', 'b'))
    box.file('app.js', two(2, [0, 0]))
    const followed = await Followed.of(box)
    const restarting = box.begin('restart', 'b', '-g')
    await followed.of({ type: 'leave', worker: 'b:1' })
    await until(async () => (await ask(port, 'x')) === 'x b 2') // an old process may not have heard of it yet
    succeeded(await restarting.ended)
    assert.equal(await pidsOf(box, 'a'), pidsA)
    for (const pid of pidsB) assert.not(lives(pid))
    assert.match(box.log(), /restart b: done in [\d.]+ s, new processes: 2\n/)
    assert.equal(followed.receipts, ['b:0 added', 'b:0 replaced', 'b:1 added', 'b:1 replaced'])
    assert.is((await box.command('restart', 'b', '--umask', '027')).code, 2)
    box.file('app.js', two(3, [0, 0], `b.onWorkerStart = () => { throw new Error('planted') }`))
    assert.is((await box.command('restart', 'b')).code, 6)
    assert.match(box.log(), /restart b: given up: worker b:\d did not become ready: Error: planted/)
    followed.close()
    await box.stop()
  })
})

const HANGING = `b.onMessage = () => new Promise(() => {}); b.drainTimeoutMs = 60_000; Worker.stopTimeout = 60`

test('restart NAME moves a group that reloads keep to its new address, and diff names it as the command', async () => {
  await inSandbox(async (box) => {
    const [a, b, c] = [await freePort(), await freePort(), await freePort()]
    const code = (version: number, port: number) => box.file('app.js', two(version, [a, port], 'b.reloadable = false'))
    await box.start(code(1, b))
    const [ofA] = await pidsOf(box, 'a')
    code(2, c)
    for (const isReloaded of [false, true]) {
      if (isReloaded) succeeded(await box.command('reload', 'b'))
      assert.match(await ask(b, 'x'), /b 1$/)
      const { code: isOther, stdout } = await box.command('diff')
      assert.is(isOther, 1)
      assert.match(stdout, /^b +listen +text:\S+ +text:\S+$/m)
      assert.match(stdout, /^next: .*'millrace restart b' makes it so/m)
    }
    succeeded(await box.command('restart', 'b'))
    assert.is(await ask(c, 'x'), 'x b 2')
    assert.is(await refusal(b), 'ECONNREFUSED')
    assert.is((await pidsOf(box, 'a'))[0], ofA)
    await box.operate({ command: 'reload' })
    assert.is((await box.command('diff')).code, 0)
    await box.stop()
  })
})

/** The first process of slot 0 fails at once; slot 1 is ready once the file of the `flag` is there. */
const oneFails = (flag: string) => `
  import { existsSync, writeFileSync } from 'node:fs'
  b.onWorkerStart = async () => {
    if (b.id === 0 && !existsSync('${flag}.failed')) {
      writeFileSync('${flag}.failed', '')
      throw new Error('planted')
    }
    while (b.id === 1 && !existsSync('${flag}')) await new Promise((resolve) => setTimeout(resolve, 20))
  }`

longTest('restart NAME: a process that fails is followed at once, however long the others take to start', async () => {
  await inSandbox(async (box) => {
    const ports = [0, await freePort()]
    await box.start(box.file('app.js', two(1, ports)))
    box.file('app.js', two(2, ports, oneFails(`${box.directory}/flag`)))
    const restarting = box.begin('restart', 'b')
    await until(() => existsSync(`${box.directory}/flag.failed`))
    assert.is(await ask(ports[1] ?? 0, 'x'), 'x b 2')
    const { groups } = await box.status()
    assert.equal(
      groups[1]?.workers.map(({ state }) => state),
      ['ready', 'starting'],
    )
    box.file('flag', '')
    const { code, stderr } = await restarting.ended
    assert.is(code, 6)
    assert.match(stderr, /restart given up: worker b:0 did not become ready: Error: planted/)
    await until(async () => (await box.status()).groups[1]?.workers.every(({ state }) => state === 'ready'))
    await box.stop()
  })
})

longTest('--timeout is how long work gets, and a second stop of a group shortens the first', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', two(1, [0, 0], HANGING)))
    const hang = async () => {
      const client = await Client.connect((await box.status()).groups[1]?.port ?? 0)
      const { messagesIn } = (await box.status()).totals
      client.send('x')
      await until(async () => (await box.status()).totals.messagesIn > messagesIn)
      return client
    }
    await hang()
    const followed = await Followed.of(box)
    const stopping = box.begin('stop', '-g', 'b')
    await followed.of({ type: 'leave', worker: 'b:0', windowMs: 60_000 })
    succeeded(await box.command('stop', 'b', '-t', '200ms'))
    succeeded(await stopping.ended)
    followed.close()
    succeeded(await box.command('start', 'b'))
    await hang()
    const { stdout } = succeeded(await box.command('-q', '--timeout=0.2', 'stop', '-g')) // of the whole server
    assert.is(stdout, '')
  })
})

for (const time of ['soon', '-5', '5h', '']) {
  caseTest(time === 'soon' || time === '')(`a --timeout of '${time}' is refused, and nothing is stopped`, async () => {
    await inSandbox(async (box) => {
      const { code, stderr } = await box.command('stop', `--timeout=${time}`)
      assert.is(code, 2)
      assert.match(stderr, /--timeout is (a time like 5 \(seconds\), 500ms or 2m, not '|empty)/)
    })
  })
}

test('reload --no-wait returns at once, and what fails is told to who follows', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', two(1, [0, 0])))
    const followed = await Followed.of(box)
    box.file('app.js', 'throw new Error("planted")')
    const { stdout } = succeeded(await box.command('reload', '--no-wait'))
    assert.match(stdout, /^asked for, pid \d+: 'millrace events' shows how it goes\n$/)
    await followed.of({ type: 'operation', step: 'failed' })
    assert.is((await box.command('reload', '--wait', '--no-wait')).code, 2)
    followed.close()
    await box.stop()
  })
})

const reasonOf = (operating: Promise<unknown>) => operating.then(() => 'none', String)

longTest('an empty NAME is nobody’s, and several --name are several groups', async () => {
  await inSandbox(async (box) => {
    const app = box.file(
      'app.js',
      `import { Worker } from 'millrace'
      new Worker('text://127.0.0.1:0', { name: 'web' })
      for (const name of ['jobs', 'cron', 'mail']) new Worker({ name })
      Worker.runAll()`,
    )
    const before = await box.start(app)
    const refused = async (...args: string[]) => {
      const { code, stderr } = await box.command(...args)
      assert.is(code, 2, `${args}: ${stderr}`)
      assert.match(stderr, /empty/)
    }
    await refused('stop', app, '')
    await refused('scale', app, '', '2')
    for (const command of ['reload', 'restart', 'start', 'events', 'logs']) await refused(command, app, '--name', '')
    for (const command of ['stop', 'restart', 'reload'] as const) // as another client may ask
      assert.match(await reasonOf(box.operate({ command, names: [''], isGraceful: false })), /no group ''/)
    const pids = workersOf(before).map(({ pid }) => pid)
    assert.equal(
      workersOf(await box.status()).map(({ pid }) => pid),
      pids,
    )
    succeeded(await box.command('stop', app, '--name', 'jobs', '--name=mail'))
    const { groups } = await box.status()
    assert.equal(
      groups.flatMap(({ name, isStopped }) => (isStopped ? name : [])),
      ['jobs', 'mail'],
    )
    await box.stop()
  })
})

longTest('a name that looks like a file never makes a command for a group one for the server', async () => {
  await inSandbox(async (box) => {
    const app = box.file(
      'app.js',
      `import { Worker } from 'millrace'
      for (const name of ['chat', 'v1/api', 'node.js']) new Worker('text://127.0.0.1:0', { name })
      Worker.runAll()`,
    )
    box.file('chat/index.js', '')
    const before = await box.start(app)
    const run = (...args: string[]) => box.spawn(process.execPath, args, { cwd: box.directory }).ended
    const refused = async (name: string, ...args: string[]) => {
      const { code, stderr } = await run(...args)
      assert.is(code, 2, `${args}: ${stderr}`)
      assert.ok(stderr.includes(`--name ${name}`), stderr)
    }
    await refused('chat', 'app.js', 'stop', 'chat')
    for (const name of ['v1/api', 'node.js']) await refused(name, startFile, 'stop', 'app.js', name)
    for (const command of ['reload', 'restart', 'events', 'logs'])
      await refused('chat', startFile, command, 'app.js', 'chat')
    assert.is((await run(startFile, 'status', 'app.js', 'chat')).code, 2)
    await refused('v1/api', startFile, 'scale', 'app.js', 'v1/api', '2')
    await refused('v1/api', startFile, 'restart', '-d', 'app.js', 'v1/api')
    assert.equal(
      workersOf(await box.status()).map(({ pid, state }) => [pid, state]),
      workersOf(before).map(({ pid }) => [pid, 'ready']),
    )
    succeeded(await run(startFile, 'stop', 'app.js', '--name', 'v1/api'))
    assert.equal(
      (await box.status()).groups.map(({ isStopped }) => isStopped),
      [false, true, false],
    )
    await box.stop()
  })
})

test.run()
