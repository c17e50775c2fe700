// Which flags of Node reach which process.

import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  adoptNodeSettings,
  childEnv,
  InspectorPorts,
  inspects,
  nodeFlags,
  nodeSettings,
  QUIET_INSPECTOR,
} from '../../src/process/node-flags.ts'
import { caseTest, longTest } from '../support/length.ts'
import {
  ask,
  echo,
  freePort,
  inSandbox,
  portOf,
  type Sandbox,
  startFile,
  succeeded,
  workersOf,
} from '../support/server.ts'
import { until } from '../support/until.ts'

for (const [own, worker, describe] of [
  [[], [], []],
  [
    ['--import', 'tsx', '--no-warnings'],
    ['--import', 'tsx', '--no-warnings'],
    ['--import', 'tsx', '--no-warnings'],
  ],
  [['--inspect'], ['--inspect'], []],
  [
    ['--inspect-brk=0.0.0.0:9300', '-r', 'x'],
    ['--inspect-brk=0.0.0.0:9300', '-r', 'x'],
    ['-r', 'x'],
  ],
  [['--inspect-port', '9230', '--inspect'], ['--inspect'], []],
  [['--inspect-port=9230'], [], []],
  [['-e', 'code', '--no-warnings'], ['--no-warnings'], ['--no-warnings']],
  [['--input-type=module', '--eval=code'], [], []],
  [['--test', '--watch', '--watch-path', 'src'], [], []],
  [['--test-reporter', 'tap', '--watch-kill-signal', 'SIGINT', '--expose-gc'], ['--expose-gc'], ['--expose-gc']],
  [
    ['-p', '--import', './x.mjs'],
    ['--import', './x.mjs'],
    ['--import', './x.mjs'],
  ],
  [['--inspect_brk', '--inspect_port', '9230'], ['--inspect_brk'], []],
  [['--inspect', '--inspect-publish-uid', 'http'], ['--inspect', '--inspect-publish-uid', 'http'], []],
] as const) {
  test(`of ${own.join(' ') || 'no flags'} a worker gets ${worker.join(' ') || 'none'}`, () => {
    assert.equal(nodeFlags('worker', null, [], own), [...worker, ...QUIET_INSPECTOR])
    for (const role of ['describe', 'callback', 'keeper', 'master'] as const)
      assert.equal(nodeFlags(role, null, [], own), [...describe, ...QUIET_INSPECTOR])
  })
}

test("a group's own flags come after ours, and the inspector's port last", () => {
  assert.equal(nodeFlags('worker', 9231, ['--expose-gc'], ['--inspect']), [
    '--inspect',
    '--expose-gc',
    '--inspect-port=9231',
  ])
})

test('the host of --inspect-port is kept: Node takes the last port, and the last host', () => {
  const own = ['--inspect-port=0.0.0.0:9229', '--inspect']
  assert.equal(nodeFlags('worker', 9230, [], own), [...own, '--inspect-port=9230'])
})

test('the last word on an inspector counts, a group has one too, and code that names it is no flag', () => {
  const asks = (execArgv: string[], extra: string[] = [], options = '') =>
    inspects(extra, { execArgv, options, debugPort: 9229 })
  assert.ok(asks([], ['--inspect-brk=9666']))
  assert.ok(asks(['--inspect_wait']))
  assert.ok(asks([], [], '--no-warnings "--inspect=9229"'))
  assert.not(asks(['--inspect', '--no-inspect']))
  assert.not(asks(['-e', 'run("x --inspect y")']))
})

test('what NODE_OPTIONS has in quotes stays as it is', () => {
  const options = '--require "/a  b/--inspect c.js" "--inspect=9229" --no-warnings'
  assert.is(childEnv('describe', options).NODE_OPTIONS, '--require "/a  b/--inspect c.js" --no-warnings')
  assert.is(childEnv('worker', options).NODE_OPTIONS, options)
})

test('an inspector that NODE_OPTIONS asks for is for workers', () => {
  const options = '--no-warnings --inspect=127.0.0.1:9300'
  assert.ok(inspects([], { execArgv: [], options, debugPort: 9300 }))
  assert.not(inspects([], { execArgv: ['--inspect-port=9300'], options: '', debugPort: 9300 }))
  assert.is(childEnv('worker', options).NODE_OPTIONS, options)
  assert.is(childEnv('describe', options).NODE_OPTIONS, '--no-warnings')
})

test('ports count up, and the lowest that is free is taken', () => {
  const ports = new InspectorPorts(9229)
  assert.equal([ports.take(), ports.take(), ports.take()], [9230, 9231, 9232])
  ports.release(9231)
  assert.equal([ports.take(), ports.take()], [9231, 9233])
  const any = new InspectorPorts(0)
  assert.equal([any.take(), any.take()], [0, 0])
  assert.is(new InspectorPorts(65_535).take(), 1024) // Node takes none above, and none below
})

test('a port that a Worker names for itself is that of its first process', () => {
  for (const flags of [['--inspect=127.0.0.1:21300'], ['--inspect', '--inspect-port=21300'], ['--inspect-brk=21300']]) {
    const ports = new InspectorPorts(9229)
    assert.equal([ports.take(), ports.take(flags), ports.take(flags)], [9230, 21300, 21301], `${flags}`)
  }
  assert.is(new InspectorPorts(9229).take(['--inspect=127.0.0.1:0']), 0)
})

test('--inspect=0 leaves every choice to the kernel, also when our own port has been chosen', () => {
  const settings = nodeSettings()
  try {
    for (const execArgv of [['--inspect=0'], ['--inspect', '--inspect_port', '0'], ['--inspect-brk=0.0.0.0:0']]) {
      adoptNodeSettings({ execArgv, options: '', debugPort: 45_679 })
      assert.is(new InspectorPorts().take(), 0)
    }
    adoptNodeSettings({ execArgv: ['--inspect=9300'], options: '--inspect=0', debugPort: 9300 })
    assert.is(new InspectorPorts().take(), 9301)
  } finally {
    adoptNodeSettings(settings)
  }
})

test('flags that Node refuses are the reason that a start gives', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1, "worker.execArgv = ['--max-old-space-sizee=64']"))
    const { code, stderr } = await box.command('start', '-d', module)
    assert.is(code, 6)
    assert.match(
      stderr,
      /worker echo:0: Node does not start with these flags \(execArgv\): bad option: --max-old-space-sizee=64/,
    )
  })
})

/** Tells its inspector's port, its flags and its heap limit. */
const TELL = `worker.onMessage = async (connection) => {
  const { url } = await import('node:inspector')
  connection.send((url() ?? 'none') + ' ' + process.execArgv.join(' '))
}`

function commandOf(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
}

async function inspectorOf(port: number): Promise<string> {
  return /:(\d+)\//.exec(await ask(port, 'x'))?.[1] ?? ''
}

for (const [how, flags, options] of [
  ['--inspect', (port: number) => [`--inspect=127.0.0.1:${port}`], () => ''],
  ['NODE_OPTIONS', () => [], (port: number) => `--inspect=127.0.0.1:${port}`],
] as const) {
  caseTest(how === 'NODE_OPTIONS')(
    `${how} of a daemon: each worker has a port of its own, across a reload too`,
    async () => {
      await inSandbox(async (box) => {
        const base = await freePort(6)
        const run = (...args: string[]) =>
          box.spawn(process.execPath, [...flags(base), startFile, ...args], {
            env: { ...box.env, NODE_OPTIONS: options(base) },
          }).ended
        succeeded(await run('start', '-d', box.file('app.js', echo(2, TELL))))
        const port = portOf(await box.status())
        const seen = new Set<string>()
        await until(async () => seen.add(await inspectorOf(port)).size === 2)
        for (const one of seen) assert.ok(Number(one) > base && Number(one) <= base + 2)
        await box.operate({ command: 'reload' })
        const after = new Set<string>()
        await until(async () => after.add(await inspectorOf(port)).size === 2)
        for (const one of after) assert.ok(Number(one) > base)
        await box.stop()
      })
    },
  )
}

test('whoever sends SIGUSR1 to a worker or to the keeper opens nothing that others on the machine can use', async () => {
  await inSandbox(async (box) => {
    const more = `${TELL}; worker.stuckTimeoutMs = 0
      worker.onWorkerStart = () => Shared.counter('c').add(1)`
    await box.start(box.file('app.js', echo(1, more).replace('{ Worker }', '{ Shared, Worker }')))
    const status = await box.status()
    const port = portOf(status)
    const keeper = box.pids().find((pid) => commandOf(pid).startsWith('millrace: keeper')) ?? 0
    process.kill(keeper, 'SIGUSR1')
    process.kill(workersOf(status)[0]?.pid ?? 0, 'SIGUSR1')
    await until(async () => (await inspectorOf(port)) !== '')
    const secret = /[0-9a-f-]{36}/.exec(await ask(port, 'x'))?.[0] ?? 'none'
    const listed = await fetch(`http://127.0.0.1:${await inspectorOf(port)}/json/list`).then((answer) => answer.text())
    assert.not.match(listed, secret)
    assert.not.match(box.log(), /keeper.*Debugger listening/)
    await box.stop()
  })
})

test('who stands at a breakpoint is not late: --inspect-brk lifts startTimeoutMs', async () => {
  await inSandbox(async (box) => {
    const base = await freePort(6)
    const module = box.file('app.js', echo(1, 'worker.startTimeoutMs = 100'))
    const server = box.spawn(process.execPath, [`--inspect=127.0.0.1:${base}`, startFile, 'start', module])
    await server.says(/Press Ctrl/)
    assert.is((await server.end('SIGTERM')).code, 0)
  })
})

test('a loader of the command line reaches the workers', async () => {
  await inSandbox(async (box) => {
    const loader = box.file('loader.mjs', 'globalThis.loaded = true')
    const module = box.file(
      'app.js',
      echo(1, 'worker.onMessage = (connection) => connection.send(String(globalThis.loaded))'),
    )
    succeeded(await box.spawn(process.execPath, ['--import', loader, startFile, 'start', '-d', module]).ended)
    assert.is(await ask(portOf(await box.status()), 'x'), 'true')
    await box.operate({ command: 'reload' })
    assert.is(await ask(portOf(await box.status()), 'x'), 'true')
    await box.stop()
  })
})

test('a worker that tells which files it has loaded, as Node does under --watch, serves', async () => {
  await inSandbox(async (box) => {
    box.env.WATCH_REPORT_DEPENDENCIES = '1'
    const status = await box.start(box.file('app.js', echo(1)))
    assert.match(await ask(portOf(status), 'x'), /^x/)
    assert.not.match(box.log(), /nonsense/)
    await box.stop()
  })
})

test("execArgv is for that group's processes", async () => {
  await inSandbox(async (box) => {
    const more = `${TELL}; worker.execArgv = ['--max-old-space-size=77']
      const other = new Worker('text://127.0.0.1:0', { name: 'other' })
      other.onMessage = worker.onMessage`
    const { groups } = await box.start(box.file('app.js', echo(1, more)))
    assert.is(await ask(groups[0]?.port ?? 0, 'x'), 'none --max-old-space-size=77')
    assert.is(await ask(groups[1]?.port ?? 0, 'x'), 'none ')
    await box.stop()
  })
})

test('an inspector that a group asks for: each process has a port of its own', async () => {
  await inSandbox(async (box) => {
    const base = await freePort(6)
    const more = `${TELL}; worker.execArgv = ['--inspect']`
    succeeded(
      await box.spawn(process.execPath, [
        `--inspect-port=127.0.0.1:${base}`,
        startFile,
        'start',
        '-d',
        box.file('app.js', echo(2, more)),
      ]).ended,
    )
    const port = portOf(await box.status())
    const seen = new Set<string>()
    await until(async () => seen.add(await inspectorOf(port)).size === 2)
    assert.equal([...seen].map(Number).sort(), [base + 1, base + 2])
    await box.stop()
  })
})

longTest('an execArgv that Node refuses is a boot failure with its reason in the log', async () => {
  await inSandbox(async (box) => {
    const { code } = await box.command(
      'start',
      '-d',
      box.file('app.js', echo(1, `worker.execArgv = ['--no-such-flag']`)),
    )
    assert.is(code, 6)
    assert.match(box.log(), /\[echo:0\] .*bad option: --no-such-flag/)
  })
})

longTest('--umask is that of every process', async () => {
  await inSandbox(async (box: Sandbox) => {
    const more = 'worker.onMessage = (connection) => connection.send(process.umask().toString(8))'
    await box.start(box.file('app.js', echo(1, more)), '--umask', '027')
    assert.is(await ask(portOf(await box.status()), 'x'), '27')
    assert.is(workersOf(await box.status()).length, 1)
    await box.stop()
  })
})

const runsTypeScript = Boolean((process.features as { typescript?: unknown }).typescript)

test(`a TypeScript module ${runsTypeScript ? 'starts directly' : 'ends with a hint'} on this Node`, async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.ts', echo(1).replace('const worker', 'const typed: number = 1\nconst worker'))
    const outcome = await box.command('check', module)
    if (runsTypeScript) {
      succeeded(outcome)
      await box.start(module)
      assert.match(await ask(portOf(await box.status()), 'x'), /^x /)
      await box.operate({ command: 'reload' })
      await box.stop()
      const broken = box.file('enum.ts', `enum A { B }\n${echo(1)}`)
      const { stderr } = await box.command('check', broken)
      assert.match(stderr, /enum\.ts:1\n/)
      assert.match(stderr, /enum is not supported.*\n.*compile it first/)
    } else {
      assert.is(outcome.code, 6)
      assert.match(outcome.stderr, /does not run TypeScript: use Node 22\.18 or later/)
      box.file('part.ts', 'const typed: number = 1')
      const required = box.file('app.cjs', `require('./part.ts')`)
      const { stderr } = await box.command('check', required)
      assert.match(stderr, /part\.ts:1\n.*does not run TypeScript/s)
    }
  })
})

test.run()
