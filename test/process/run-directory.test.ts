// The run directory: where it is looked for, and when it is refused, since whoever can replace the control socket in it
// commands the server.

import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { longTest } from '../support/length.ts'
import { upgrade } from '../support/release.ts'
import { ask, assertClean, echo, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'
import { asRoot, isRoot } from '../support/where.ts'

const NOBODY = 65_534

function modeOf(path: string): string {
  return (lstatSync(path).mode & 0o7777).toString(8)
}

/** Exit code 1, one line and what to do, nothing made. */
async function refused(box: Sandbox, says: RegExp, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await box.command('start', '-d', box.file('app.js', echo(1)), ...args)
  assert.match(stderr, says)
  assert.match(stderr, /^millrace: .*\nnext: .*\n$/)
  assert.is(code, 1)
  assert.is(stdout, '')
}

/** Starts with these variables, and gives the run directory. */
async function startedIn(box: Sandbox, env: Record<string, string | undefined>): Promise<string> {
  Object.assign(box.env, { MILLRACE_RUN_DIR: undefined, TMPDIR: box.directory, ...env })
  const module = box.file('app.js', echo(1))
  succeeded(await box.command('start', '-d', module))
  const { runDir } = JSON.parse(succeeded(await box.command('status', '--json', module)).stdout)
  succeeded(await box.command('stop', module))
  assertClean(runDir)
  return runDir
}

function hashOf(module: string): string {
  return createHash('sha256').update(module).digest('hex').slice(0, 16)
}

test('it is made 0700, with a control socket of 0600 and the pid for people', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', echo(1)))
    assert.is(modeOf(box.runDir), '700')
    assert.is(modeOf(join(box.runDir, 'control.sock')), '600')
    assert.is(modeOf(join(box.runDir, 'lock')), '600')
    assert.is(modeOf(join(box.runDir, 'millrace.log')), '640')
    assert.is(readFileSync(join(box.runDir, 'millrace.pid'), 'utf8'), `${pid}\n`)
    await box.stop()
  })
})

test('one that others can enter is refused', async () => {
  await inSandbox(async (box) => {
    for (const mode of [0o755, 0o770, 0o701]) {
      mkdirSync(box.runDir, { recursive: true })
      chmodSync(box.runDir, mode)
      await refused(box, /no run directory: .* can be entered by others \(chmod 700 /)
    }
  })
})

test('a link in its place is refused, and so is a file', async () => {
  await inSandbox(async (box) => {
    symlinkSync(box.directory, box.runDir)
    await refused(box, /run is not a directory/)
    unlinkSync(box.runDir)
    await refused(box, /not-one is not a directory/, '--run-dir', box.file('not-one', ''))
  })
})

test('one of another user is refused', async () => {
  await inSandbox(async (box) => {
    mkdirSync(box.runDir, { mode: 0o700 })
    if (isRoot) chownSync(box.runDir, NOBODY, NOBODY)
    const foreign = isRoot ? box.runDir : '/root'
    await refused(box, isRoot ? /belongs to uid 65534/ : /no run directory/, '--run-dir', foreign)
  })
})

asRoot('one under a folder that another user made for us is refused: he could replace it', async () => {
  await inSandbox(async (box) => {
    const trap = join(box.directory, 'millrace-0')
    mkdirSync(trap, { mode: 0o777 })
    chownSync(trap, NOBODY, NOBODY)
    // No other candidate: the one before is too long for a socket.
    const [session, module] = [join(box.directory, 'x'.repeat(100)), box.file('app.js', echo(1))]
    Object.assign(box.env, { MILLRACE_RUN_DIR: undefined, TMPDIR: box.directory, XDG_RUNTIME_DIR: session })
    const outcome = await box.spawn('unshare', [
      '-m',
      'sh',
      '-c',
      `mount -t tmpfs -o ro none /run; exec "$@"`,
      'sh',
      process.execPath,
      'dist/start.js',
      'start',
      '-d',
      module,
    ]).ended
    assert.match(outcome.stderr, /millrace-0 belongs to uid 65534/)
    assert.is(outcome.code, 1)
  })
})

test('one whose socket path is too long for the system is refused with the limit', async () => {
  await inSandbox(async (box) => {
    const long = join(box.runDir, 'x'.repeat(100))
    await refused(
      box,
      /control\.sock has \d+ bytes, the limit is 107\nnext: choose one with --run-dir/,
      '--run-dir',
      long,
    )
    assert.not(existsSync(long))
    for (const command of ['stop', 'status']) {
      assert.is((await box.command(command, '--run-dir', long)).code, 3)
    }
  })
})

test('the flag comes before the variable', async () => {
  await inSandbox(async (box) => {
    const other = join(dirname(box.runDir), 'other')
    succeeded(await box.command('start', '-d', box.file('app.js', echo(1)), '--run-dir', other))
    assert.ok(existsSync(join(other, 'control.sock')))
    assert.not(existsSync(box.runDir))
    succeeded(await box.command('stop', '--run-dir', other))
  })
})

test('systemd says where: the first of RUNTIME_DIRECTORY', async () => {
  await inSandbox(async (box) => {
    const given = join(dirname(box.runDir), 'unit')
    assert.is(await startedIn(box, { RUNTIME_DIRECTORY: `${given}:/nowhere` }), given)
  })
})

test('a session has its own: XDG_RUNTIME_DIR, by the module', async () => {
  await inSandbox(async (box) => {
    const session = dirname(box.runDir)
    const expected = join(session, 'millrace', hashOf(join(box.directory, 'app.js')))
    assert.is(await startedIn(box, { XDG_RUNTIME_DIR: session }), expected)
    assert.is(modeOf(join(session, 'millrace')), '700')
  })
})

longTest('a session directory that cannot be used is passed over, by every command', async () => {
  await inSandbox(async (box) => {
    const runDir = await startedIn(box, { XDG_RUNTIME_DIR: join(box.directory, 'x'.repeat(100)) })
    assert.match(runDir, isRoot ? /^\/run\/millrace\/[0-9a-f]{16}$/ : /millrace-\d+/)
  })
})

asRoot('a session directory of somebody else, as `su` leaves it, is passed over', async () => {
  await inSandbox(async (box) => {
    const session = join(box.directory, 'session')
    mkdirSync(session)
    chownSync(session, NOBODY, NOBODY)
    assert.match(await startedIn(box, { XDG_RUNTIME_DIR: session }), /^\/run\/millrace\/[0-9a-f]{16}$/)
    assert.equal(readdirSync(session), [])
  })
})

asRoot('a user without a session has one under the temporary directory, also where root has been before', async () => {
  await inSandbox(async (box) => {
    mkdirSync('/run/millrace', { recursive: true, mode: 0o700 })
    // A copy that the other user can read, wherever this repository is.
    const home = dirname(box.runDir)
    chmodSync(home, 0o755)
    await box.spawn('cp', ['-r', 'dist', 'package.json', home]).ended
    const module = join(home, 'app.js')
    await box.spawn('cp', [box.file('app.js', echo(1)), module]).ended
    mkdirSync(join(home, 'tmp'), { mode: 0o777 })
    chmodSync(join(home, 'tmp'), 0o1777)
    Object.assign(box.env, { MILLRACE_RUN_DIR: undefined, TMPDIR: join(home, 'tmp'), XDG_RUNTIME_DIR: undefined })
    box.env.NODE_V8_COVERAGE = undefined
    const nobody = async (...args: string[]) => {
      const drop = ['--reuid=65534', '--regid=65534', '--clear-groups', process.execPath, join(home, 'dist/start.js')]
      return box.spawn('setpriv', [...drop, ...args], { cwd: home }).ended
    }
    assert.is((await nobody('status', module)).code, 3)
    succeeded(await nobody('start', '-d', module))
    const { runDir } = JSON.parse(succeeded(await nobody('status', '--json', module)).stdout)
    assert.is(runDir, join(home, 'tmp/millrace-65534', hashOf(module)))
    assert.is((await nobody('start', '-d', module)).code, 4)
    succeeded(await nobody('stop', module))
  })
})

test('a pid file is made where it is asked for, and removed; no link is followed', async () => {
  await inSandbox(async (box) => {
    const [module, pidFile] = [box.file('app.js', echo(1)), join(box.directory, 'app.pid')]
    const { pid } = await box.start(module, '--pid-file', pidFile)
    for (const file of [pidFile, join(box.runDir, 'millrace.pid')]) assert.is(readFileSync(file, 'utf8'), `${pid}\n`)
    const upgraded = await upgrade(box, module)
    for (const file of [pidFile, join(box.runDir, 'millrace.pid')])
      assert.is(readFileSync(file, 'utf8'), `${upgraded.pid}\n`)
    await box.stop()
    assert.not(existsSync(pidFile))
    const precious = box.file('precious', 'precious')
    symlinkSync(precious, pidFile)
    await refused(box, /open .*app\.pid: ELOOP/, '--pid-file', pidFile)
    await refused(box, /open .*no\/app\.pid: ENOENT/, '--pid-file', join(box.directory, 'no/app.pid'))
    assert.is(readFileSync(precious, 'utf8'), 'precious')
    await until(() => box.pids().length === 0)
  })
})

test('one that cannot be reached any more costs its files: workers are replaced, and the server ends with 0', async () => {
  await inSandbox(async (box) => {
    const shares = `worker.onWorkerStart = () => worker.incarnation === 1 && Shared.map('some').set('a', 1)`
    const module = box.file('app.js', echo(1, shares).replace('{ Worker }', '{ Shared, Worker }'))
    const server = await box.foreground(module)
    const status = await box.status()
    rmSync(box.runDir, { recursive: true })
    writeFileSync(box.runDir, '') // ENOTDIR, for root too
    const [worker] = workersOf(status)
    process.kill(worker?.pid ?? 0, 'SIGKILL')
    await server.says(/cannot record workers: ENOTDIR/)
    await until(
      async () => !(await ask(portOf(status), 'x').catch(() => String(worker?.pid))).includes(`${worker?.pid}`),
    )
    assert.is((await server.end('SIGTERM')).code, 0)
    rmSync(box.runDir)
  })
})

test('the record of its processes is written as soon as it can be again, and the failure is logged once', async () => {
  await inSandbox(async (box) => {
    const [before] = workersOf(await box.start(box.file('app.js', echo(1))))
    const obstacle = join(box.runDir, 'workers.json.new')
    mkdirSync(obstacle)
    process.kill(before?.pid ?? 0, 'SIGKILL')
    await until(() => box.log().includes('cannot record workers'))
    const after = await until(async () => {
      const [worker] = workersOf(await box.status())
      return worker?.state === 'ready' && worker.pid !== before?.pid && worker
    })
    assert.not.ok(readFileSync(join(box.runDir, 'workers.json'), 'utf8').includes(String(after.pid)))
    rmSync(obstacle, { recursive: true })
    await until(() => readFileSync(join(box.runDir, 'workers.json'), 'utf8').includes(String(after.pid)))
    assert.is(box.log().split('cannot record workers').length, 2)
    await box.stop()
  })
})

test('log files are made where they are asked for, are appended to, and no link is followed', async () => {
  await inSandbox(async (box) => {
    const [log, out] = [box.file('app.log', 'before\n'), join(box.directory, 'app.out')]
    const module = box.file(
      'app.js',
      echo(1, `worker.onWorkerStart = () => { console.log('out'); console.error('err') }`),
    )
    await box.start(module, '--log-file', log, '--stdout-file', out)
    await box.stop()
    assert.match(readFileSync(log, 'utf8'), /^before\n\S+ \S+ pid:\d+ \[echo:0\] err\n$/)
    assert.is(readFileSync(out, 'utf8'), 'out\n')
    symlinkSync(log, join(box.directory, 'link.log'))
    await refused(box, /open .*link\.log: ELOOP/, '--log-file', join(box.directory, 'link.log'))
  })
})

test.run()
