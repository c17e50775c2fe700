// The command line: usage, help, what `status` and `stop` say, and their exit codes.

import { appendFileSync, mkdirSync, symlinkSync } from 'node:fs'
import net from 'node:net'
import { join, relative } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { FLAGS, type FlagName, readLine } from '../../src/process/commands/line.ts'
import type { CommandError } from '../../src/process/exit-codes.ts'
import { longTest } from '../support/length.ts'
import { Client, echo, inSandbox, portOf, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const WRONG: [string, string[], RegExp][] = [
  ['no command', [], /^millrace: no command$/m],
  ['an unknown command', ['strat'], /unknown command 'strat': did you mean 'start'\?$/m],
  ['one that is like no other', ['deploy'], /unknown command 'deploy'$/m],
  ['a name that every object has', ['constructor'], /unknown command 'constructor'/],
  ['an unknown flag', ['start', '--deamon'], /'--deamon'/],
  ['a flag without its value', ['start', '--run-dir'], /--run-dir/],
  ['a value for a flag that has none', ['status', '--json=yes'], /--json/],
  ['a flag of another command', ['status', '--daemon'], /status does not know --daemon/],
  ['a word too many', ['check', 'strat'], /check does not know what to do with 'strat'/],
]

for (const [what, args, says] of WRONG) {
  test(`${what} is answered with the usage, on stderr, and exit code 2`, async () => {
    await inSandbox(async (box) => {
      const { code, stdout, stderr } = await box.command(...args)
      assert.is(code, 2, stderr)
      assert.is(stdout, '')
      assert.match(stderr, says)
      assert.match(stderr, /^next: millrace help/m)
      assert.match(stderr, /^Usage: millrace /m)
      assert.not.match(stderr, /^ +at /m)
    })
  })
}

/** What serves here, where nobody asks for another. */
const fastest = addon().newEngine === null ? 'node' : 'native'

test('help and --version answer on stdout', async () => {
  await inSandbox(async (box) => {
    for (const args of [['help'], ['--help'], ['-h']]) {
      assert.match(succeeded(await box.command(...args)).stdout, /^Usage: millrace <command>.*Exit codes: 0 done/s)
    }
    for (const args of [
      ['start', '--help'],
      ['help', 'start'],
      ['-h', '--engine', 'node', 'start'],
    ]) {
      assert.match(
        succeeded(await box.command(...args)).stdout,
        /^Usage: millrace start .*-d, --daemon.*Exit codes: 0 done/s,
      )
    }
    assert.is((await box.command('help', 'strat')).code, 2)
    for (const args of [['--version'], ['-v']]) {
      assert.match(succeeded(await box.command(...args)).stdout, /^\d+\.\d+\.\d+\S*\n$/)
    }
  })
})

for (const command of ['stop', 'status']) {
  test(`${command} with nothing running says so, with exit code 3`, async () => {
    await inSandbox(async (box) => {
      const file = box.file('app.js', echo())
      for (const [words, named] of [
        [[file], relative('', file)],
        [[], 'app.js'],
      ] as const) {
        const { code, stderr } = await box.command(command, ...words)
        assert.is(code, 3)
        assert.is(
          stderr,
          `millrace: not running (looked in ${box.runDir})\nnext: start it: millrace start -d ${named}\n`,
        )
      }
    })
  })
}

test('--json behind -- is an argument of the app', async () => {
  await inSandbox(async (box) => {
    const { code, stdout, stderr } = await box.command('reload', '--', '--json')
    assert.equal([code, stdout], [3, ''], stderr)
  })
})

test('status is a table for people, in the columns of Workerman', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(2)))
    const { stdout } = succeeded(await box.command('status'))
    const header = 'pid +memory +listening +name +id +connections +send_fail +timers +total_request +qps +status'
    assert.match(stdout, new RegExp(`^${header}$`, 'm'))
    for (const { pid, id } of workersOf(status)) {
      const row = `${pid} +[\\d.]+M +127\\.0\\.0\\.1:${portOf(status)} +echo +${id} +0 +0 +(0|N/A) +0 +(0|N/A) +\\[(idle|busy)\\]`
      assert.match(stdout, new RegExp(`^${row}$`, 'm'))
    }
    assert.match(stdout, /^Summary +[\d.]+M +- +- +- +0 +0 +0 +0 +0 +\[Summary\]$/m)
    assert.match(stdout, new RegExp(`^name +event-loop +exit_status +exit_count\\necho +${fastest} +0 +0$`, 'm'))
    assert.match(stdout, new RegExp(`pid ${status.pid} +daemon`))
    await box.stop()
  })
})

test('status --json is one object with everything, and its counters are of this moment', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', echo(1)))
    const { version, node, pid, startedAt, uptimeMs, isDaemon, runDir, engine, loadAverage, groups } = before
    assert.match(version, /^\d+\.\d+\.\d+/)
    assert.is(node, process.versions.node)
    assert.ok(pid > 1 && uptimeMs > 0 && Math.abs(Date.now() - Date.parse(startedAt)) < 60_000)
    assert.equal({ isDaemon, runDir, engine }, { isDaemon: true, runDir: box.runDir, engine: fastest })
    assert.is(loadAverage.length, 3)
    const [group] = groups
    assert.is(group?.address, `127.0.0.1:${group?.port}`)
    assert.equal([group?.name, group?.listen, group?.count], ['echo', 'text://127.0.0.1:0', 1])
    const client = await Client.connect(portOf(before))
    await client.ask('one')
    await client.ask('two')
    const { totals } = await box.status()
    assert.equal([totals.connections, totals.accepted, totals.messagesIn, totals.messagesOut], [1, 1, 2, 2])
    client.close()
    await until(async () => (await box.status()).totals.closed === 1)
    assert.is((await box.status()).totals.connections, 0)
    await box.stop()
  })
})

test('two status at the same time both get their answer', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', echo(2)))
    const control = `${box.runDir}/control.sock`
    const clients = await Promise.all(Array.from({ length: 8 }, () => Client.connect(control)))
    for (const client of clients) client.send('{"command":"status"}')
    for (const client of clients) {
      const { status } = JSON.parse(await client.line())
      const states = workersOf(status).map(({ state }) => state)
      assert.is(states.length, 2)
      for (const state of states) assert.match(state, /^(ready|busy)$/) // busy: on a machine that is
    }
    await box.stop()
  })
})

longTest('status calls a worker that does not answer busy, and one that somebody has stopped suspended', async () => {
  await inSandbox(async (box) => {
    const working = `worker.onMessage = (connection, line) => {
      connection.send('begun')
      setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(line)))
    }`
    const status = await box.start(box.file('app.js', echo(1, working)))
    const state = async () => workersOf(await box.status())[0]?.state ?? ''
    const client = await Client.connect(portOf(status))
    await client.ask('4000')
    assert.match(await state(), /^(busy|hung)$/) // hung, when the command took so long
    client.close()
    await until(async () => (await state()) === 'ready')
    const pid = workersOf(status)[0]?.pid ?? 0
    process.kill(pid, 'SIGSTOP')
    await until(async () => (await state()) === 'suspended')
    process.kill(pid, 'SIGCONT')
    await until(async () => (await state()) === 'ready')
    await box.stop()
  })
})

/** Connects until no more can wait to be accepted. */
async function fillQueue(path: string): Promise<net.Socket[]> {
  const all: net.Socket[] = []
  for (let isFull = false; !isFull; ) {
    const socket = net.connect(path)
    all.push(socket)
    isFull = await new Promise((resolve) =>
      socket.once('connect', () => resolve(false)).once('error', () => resolve(true)),
    )
  }
  return all
}

test('a suspended master is a time-out, exit code 7, that says so, and still counts as running', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    const { pid } = await box.start(module)
    process.kill(pid, 'SIGSTOP')
    appendFileSync(join(box.runDir, 'millrace.log'), 'its last words\n')
    const [status, second, logs] = await Promise.all([
      box.command('status'),
      box.command('start', module),
      box.command('logs'),
    ])
    const visitors = await fillQueue(join(box.runDir, 'control.sock'))
    const late = await box.command('status')
    process.kill(pid, 'SIGCONT')
    for (const visitor of visitors) visitor.destroy()
    await until(() => box.status().catch(() => null), 20_000) // it has taken them from its queue
    for (const { code, stderr } of [status, late]) {
      assert.is(code, 7, stderr)
      assert.match(stderr, new RegExp(`the master, pid ${pid}, is suspended`))
    }
    assert.is(second.code, 4, second.stderr)
    assert.match(succeeded(logs).stdout, /its last words\n$/)
    assert.match(logs.stderr, /^millrace: warning: the master, pid \d+, is suspended/)
    await box.stop()
  })
})

test('a control socket survives what is no request', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', echo(1)))
    const control = `${box.runDir}/control.sock`
    const lines = ['null', '[]', '"stop"', '{}', '{"command":"constructor"}', 'not json', 'x'.repeat(5_000_000)]
    for (const line of lines) {
      const client = await Client.connect(control)
      client.send(line)
      const answer = await client.line().catch(() => '{"ok":false}')
      assert.is(JSON.parse(answer).ok, false, line.slice(0, 30))
      client.close()
    }
    assert.is((await box.status()).pid, pid)
    await box.stop()
  })
})

test('a folder is what node makes of it: main of its package.json, or index.js; else an error that says so', async () => {
  await inSandbox(async (box) => {
    const run = (...args: string[]) =>
      box.spawn(process.execPath, [`${process.cwd()}/dist/start.js`, ...args], { cwd: box.directory }).ended
    const bare = await run('start', '-d', '.')
    assert.is(bare.code, 6)
    assert.match(bare.stderr, /\. is a folder without an index\.js/)
    assert.match(bare.stderr, /^next: name the file to run: app\.js$/m)
    for (const folder of ['lib', 'node_modules']) mkdirSync(`${box.directory}/${folder}`)
    symlinkSync(process.cwd(), `${box.directory}/node_modules/millrace`) // the package.json below ends the reach of our own
    box.file('lib/index.js', echo(1))
    box.file('package.json', JSON.stringify({ type: 'module', main: 'lib/index.js' }))
    for (const [folder, stops] of [
      ['.', 'lib/index.js'],
      ['lib', 'lib'],
    ] as const) {
      assert.match(succeeded(await run('start', '-d', folder)).stdout, /^Stop it with: .* stop lib\/index\.js$/m)
      succeeded(await run('stop', stops))
    }
  })
})

test('the line that stops a server is for sh, whatever its path has in it, and names the run directory if start did', async () => {
  await inSandbox(async (box) => {
    const name = `a#b 'c' $HOME ü?.js`
    box.file(name, echo(1))
    const run = (command: string, ...args: string[]) => box.spawn(command, args, { cwd: box.directory }).ended
    for (const flags of [[], ['--run-dir', 'an other']]) {
      const started = await run(process.execPath, `${process.cwd()}/dist/start.js`, 'start', '-d', name, ...flags)
      const [, stop = ''] = /^Stop it with: (.*)$/m.exec(succeeded(started).stdout) ?? []
      assert.match(succeeded(await run('sh', '-c', stop)).stdout, /^stopped, pid \d+$/m)
    }
  })
})

test('commands find the server of a module by its real path, from any directory and through a link', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    mkdirSync(`${box.directory}/runtime`, { mode: 0o700 })
    box.env.MILLRACE_RUN_DIR = undefined
    box.env.XDG_RUNTIME_DIR = `${box.directory}/runtime`
    succeeded(await box.command('start', '-d', module))
    succeeded(await box.spawn('ln', ['-s', module, `${box.directory}/link.js`]).ended)
    assert.is((await box.command('status', `${box.directory}/link.js`)).code, 0)
    assert.is((await box.command('status', 'dist/demo.js')).code, 3)
    const { code } = await box.spawn(process.execPath, [`${process.cwd()}/dist/start.js`, 'stop', 'app.js'], {
      cwd: box.directory,
    }).ended
    assert.is(code, 0)
  })
})

test('an empty variable sets nothing', async () => {
  await inSandbox(async (box) => {
    const names = ['PID_FILE', 'LOG_FILE', 'STDOUT_FILE', 'LOG_FORMAT', 'LOG_MAX_SIZE', 'USER', 'GROUP', 'UMASK']
    for (const name of [...names, 'ENGINE', 'HEALTH', 'STOP_DELAY']) box.env[`MILLRACE_${name}`] = ''
    succeeded(await box.command('start', '-d', box.file('app.js', echo(1))))
    await box.stop()
    for (const flag of ['--log-file', '--pid-file']) {
      const { code, stderr } = await box.command('start', '-d', flag, '', join(box.directory, 'app.js'))
      assert.is(code, 2)
      assert.match(stderr, new RegExp(`${flag} is empty`))
    }
  })
})

test('a flag without a value, and one that is given twice, is an error', () => {
  const line =
    (...args: string[]) =>
    () =>
      readLine(['start', ...args], '/app.js')
  const flags = (Object.keys(FLAGS) as FlagName[]).filter((name) => FLAGS[name].type === 'string')
  for (const flag of flags) {
    for (const args of [[`--${flag}`, ''], [`--${flag}=`]])
      assert.throws(line(...args), ({ exitCode, message }: CommandError) => exitCode === 2 && /is empty/.test(message))
    if (flag === 'name') assert.equal(line('--name', 'a', '--name', 'b')().words, ['a', 'b'])
    else assert.throws(line(`--${flag}=1`, `--${flag}=2`), new RegExp(`--${flag} is given twice: '1' and '2'`))
  }
  assert.throws(line('-t', '1', '--timeout=2'), /--timeout is given twice/)
  assert.is(line('-q', '-q')().flags.quiet, true)
})

longTest(
  'the next step after broken code is a command that can help: none after check, logs where there is a log',
  async () => {
    await inSandbox(async (box) => {
      const app = box.file('app.js', echo(1, `worker.count = 'x'`))
      const next = async (...args: string[]) =>
        /^next: (.*)$/m.exec((await box.command(...args, app)).stderr)?.[1] ?? ''
      assert.is(await next('check'), 'correct the code')
      const early = await next('restart')
      assert.match(early, /^correct the code: .* check .* evaluates it, the lines before this are/)
      assert.match(await next('start', '-d'), /^correct the code: .* check .* evaluates it, .* logs .* has what/)
      assert.is((await box.command('logs', app)).code, 0)
    })
  },
)

test('the next step names the run directory if the line did, and fits a start that took too long', async () => {
  await inSandbox(async (box) => {
    const more = `worker.startTimeoutMs = 200; worker.onWorkerStart = () => new Promise(() => {})`
    const app = box.file('app.js', echo(1, more))
    const absent = await box.command('status', '--run-dir', box.runDir, app)
    assert.is(absent.code, 3)
    assert.match(absent.stderr, new RegExp(`^next: start it: .* start -d .*app\\.js --run-dir ${box.runDir}$`, 'm'))
    const late = await box.command('start', '-d', app)
    assert.is(late.code, 7)
    assert.match(late.stderr, /^next: .*startTimeoutMs.* logs .*app\.js has what its processes have said$/m)
  })
})

test.run()
