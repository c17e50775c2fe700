// `millrace logs`: the end of the log, of all or of a group, and what comes, over rotations.

import { appendFileSync, copyFileSync, mkdtempSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { isOf, toJson } from '../../src/process/commands/logs.ts'
import { FileTail, lastLines } from '../../src/process/output/tail.ts'
import { ask, echo, inSandbox, portOf, succeeded, workersOf } from '../support/server.ts'
import { until, within } from '../support/until.ts'

const SAYING = `
  const other = new Worker('', { name: 'echo-2' })
  other.onWorkerStart = () => console.error('other here')
  worker.onMessage = (connection, line) => { console.error('said ' + line); connection.send(line) }`

test('the last lines of all, or of a group, also when nothing runs any more; -f goes on over a rotation', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(1, SAYING)))
    for (let n = 0; n < 30; n++) await ask(portOf(status), String(n))
    const all = succeeded(await box.command('logs')).stdout
    assert.equal(
      all.match(/said \d+/g),
      Array.from({ length: 20 }, (_, n) => `said ${n + 10}`),
    )
    const few = succeeded(await box.command('logs', 'echo:0', '-n', '2')).stdout
    assert.match(few, /^.* \[echo:0\] said 28\n.* \[echo:0\] said 29\n$/)
    assert.match(succeeded(await box.command('logs', 'echo-2')).stdout, /^.* \[echo-2:0\] other here\n$/)
    assert.is(succeeded(await box.command('logs', '--lines', '0')).stdout, '')
    const unknown = await box.command('logs', 'ehco')
    assert.is(unknown.code, 2)
    assert.match(unknown.stderr, /there is no group 'ehco'; there is: echo .*, echo-2/)

    const following = box.begin('logs', '-f', 'echo', '-n', '1')
    await following.says(/said 29/)
    await ask(portOf(status), 'before')
    await following.says(/said before/)
    renameSync(join(box.runDir, 'millrace.log'), join(box.runDir, 'millrace.log.1'))
    const [worker] = workersOf(status)
    // The server looks for its file once a second: until then it writes into the one that was moved.
    await until(async () => {
      await ask(portOf(status), 'after')
      return box.log().includes('said after')
    }, 20_000)
    process.kill(worker?.pid ?? 0, 'SIGKILL')
    await following.says(new RegExp(`worker echo:0 pid ${worker?.pid}: signal SIGKILL`))
    const asked = box.log().match(/said after/g)?.length ?? 0
    assert.ok((following.stdout.match(/said after/g)?.length ?? 0) >= asked)
    assert.not.match(following.stdout, /other here/)
    await box.stop()
    assert.is(following.process.exitCode, null) // the next start goes on there
    following.process.kill('SIGINT')
    assert.is((await within(10_000, following.ended)).code, 0)
    assert.match(succeeded(await box.command('logs', 'echo')).stdout, /signal SIGKILL/)
    for (const name of ['millrace.log', 'millrace.log.1']) rmSync(join(box.runDir, name))
    assert.is((await box.command('logs')).code, 3)
  })
})

test('a server that logs to its terminal has no log to show, and one with a file has', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    let server = await box.foreground(module)
    const { code, stderr } = await box.command('logs', '--json')
    assert.is(code, 1)
    assert.match(
      stderr,
      /runs in the foreground and logs to its terminal\nnext: start it with --log-file FILE, or with -d/,
    )
    await server.end('SIGTERM')
    const file = join(box.directory, 'app.log')
    server = await box.foreground(module, '--log-file', file, '--log-format', 'json')
    const status = await box.status()
    process.kill(workersOf(status)[0]?.pid ?? 0, 'SIGKILL')
    await until(
      async () => succeeded(await box.command('logs', 'echo')).stdout.includes('"message":"worker echo:0 pid'),
      20_000,
    )
    const other = box.file('other.log', 'the other one\n')
    assert.is(succeeded(await box.command('logs', '--log-file', other)).stdout, 'the other one\n')
    const missing = await box.command('logs', '--log-file', `${other}.none`)
    assert.is(missing.code, 1)
    assert.match(missing.stderr, /there is no file .*other\.log\.none\nnext: without --log-file, /)
    await server.end('SIGTERM')
    assert.match(succeeded(await box.command('logs', '--log-file', file)).stdout, /SIGKILL/)
  })
})

test('the log of a server that has died is read where it was, also if that is not the run directory', async () => {
  await inSandbox(async (box) => {
    const program = (log: string) => echo(1, `Worker.logFile = import.meta.dirname + '/${log}'`)
    const module = box.file('app.js', program('one.log'))
    const isReadIn = async (path: string) => {
      appendFileSync(path, `the end of ${path}\n`)
      assert.match(succeeded(await box.command('logs', module)).stdout, new RegExp(`the end of ${path}\n$`))
    }
    const isReadHere = (name: string) => isReadIn(join(box.directory, name))
    const dies = async ({ pid }: { readonly pid: number }) => {
      process.kill(pid, 'SIGKILL')
      await until(() => box.pids().length === 0, 20_000)
    }
    await dies(await box.start(module))
    await isReadHere('one.log')
    const second = await box.start(module)
    box.file('app.js', program('two.log'))
    succeeded(await box.command('reload', module))
    box.file('app.js', program('three.log').replace('Worker.runAll()', 'worker.onWorkerStart = () => process.exit(1)'))
    assert.is.not((await box.command('upgrade', module)).code, 0) // given up: the log is where it was
    await dies(second)
    await isReadHere('two.log')
    box.file('app.js', program('three.log'))
    await box.start(module)
    box.file('app.js', program('four.log'))
    succeeded(await box.command('upgrade', module))
    await box.stop()
    await isReadHere('four.log')
    await box.start(module, '--log-file', join(box.directory, 'five.log'))
    await box.stop()
    await isReadHere('five.log')
    box.file('app.js', `console.error('cannot read config'); throw new Error('planted')`)
    assert.is((await box.command('start', '-d', module)).code, 6) // before it is known what the code declares
    assert.match(succeeded(await box.command('logs', module)).stdout, /cannot read config/)
    await box.start(box.file('app.js', echo(1)))
    await box.stop()
    await isReadIn(join(box.runDir, 'millrace.log'))
    rmSync(join(box.runDir, 'millrace.log'))
    assert.is((await box.command('logs', module)).code, 3)
  })
})

/** Two without a name, as Workerman's users have them, and one whose name looks like that of a process. */
const UNNAMED = `
  import { Worker } from 'millrace'
  const one = new Worker('text://127.0.0.1:0')
  one.onMessage = (connection, line) => { console.error('said ' + line); connection.send(String(process.pid)) }
  new Worker('tcp://127.0.0.1:0', { name: 'api:8080', onMessage() {} })
  new Worker('', { name: 'my web' })
  Worker.runAll()`

test('a group is meant by its address, too, and by any name that it may have', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', UNNAMED))
    const address = 'text://127.0.0.1:0'
    for (const name of [address, 'api:8080', 'my web:0'])
      assert.is(succeeded(await box.command('logs', '--name', name)).stdout, '', name)
    const following = box.begin('events', address, '-n', '100')
    await following.says(/none:0 +ready/)
    const pid = await ask(portOf(status), 'hello')
    assert.match(succeeded(await box.command('logs', address)).stdout, /^.* \[none:0\] said hello\n$/)
    process.kill(Number(pid), 'SIGKILL')
    await following.says(new RegExp(`none:0 +exit pid ${pid}: signal SIGKILL`))
    assert.not.match(following.stdout, /api:8080|my web/)
    assert.is((await following.end('SIGINT')).code, 0)
    const web = workersOf(status).at(-1)
    process.kill(web?.pid ?? 0, 'SIGKILL')
    await until(() => box.log().includes('worker my web:0'), 20_000)
    assert.match(succeeded(await box.command('logs', 'my web')).stdout, /^.* worker my web:0 pid \d+: signal SIGKILL/)
    await box.stop()
  })
})

test('a line is of a group by its worker, or by what the master says about it', () => {
  const line = (rest: string) => `2026-11-26 12:00:00 pid:7 ${rest}`
  assert.ok(isOf(line('[web:2] worker api:0 is slow'), 'web'))
  assert.ok(isOf(line('[web:2] x'), 'web:2'))
  assert.not(isOf(line('[web:2] api x'), 'api'))
  assert.not(isOf(line('[web-2:0] x'), 'web'))
  assert.not(isOf(line('[web:21] x'), 'web:2'))
  assert.ok(isOf(line('worker web:2 pid 9: exit 250'), 'web'))
  assert.ok(isOf(line('worker web:2 pid 9: exit 250'), 'web:2'))
  assert.ok(isOf(line('stop web: done in 0.1 s'), 'web'))
  assert.not(isOf(line('worker webs:2 pid 9: exit 250'), 'web'))
  assert.ok(isOf(line('worker my web:2 pid 9: exit 250'), 'my web'))
  assert.not(isOf(line('worker my webs:2 pid 9: no such thing as my'), 'my web'))
  assert.ok(isOf(line("reload 'text://127.0.0.1:80', web: done"), 'text://127.0.0.1:80'))
  for (const helper of ['describe', 'callback', 'keeper'])
    assert.not(isOf(line(`[${helper}] web: said by a helper`), 'web'), helper)
  assert.ok(isOf('{"time":"x","pid":7,"worker":"web:2","message":"m"}', 'web'))
  assert.ok(isOf('{"time":"x","pid":7,"message":"worker web:2 pid 9: exit"}', 'web'))
  assert.not(isOf('{"cut', 'web'))
})

test('with --json each line is an object, whatever the log is written in', () => {
  const time = new Date(2026, 10, 26, 12, 0, 1).toISOString()
  const object = (text: string) => JSON.parse(toJson(text))
  const said = object('2026-11-26 12:00:01 pid:7 [web:2] said [x] y')
  assert.equal(said, { time, pid: 7, worker: 'web:2', message: 'said [x] y' })
  assert.equal(object('2026-11-26 12:00:01 pid:7 a master'), { time, pid: 7, message: 'a master' })
  assert.equal(object('2026-11-26 12:00:01 pid:7 [keeper] x'), { time, pid: 7, worker: 'keeper', message: 'x' })
  assert.equal(object('cut'), { message: 'cut' })
  assert.is(toJson('{"time":"x"}'), '{"time":"x"}')
})

test('the end of a file is read in pieces, and what is appended over renames and truncations', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-tail-'))
  try {
    const path = join(folder, 'log')
    const lines = Array.from({ length: 9000 }, (_, n) => `${n} ${'\u00e4'.repeat(n % 70)}`)
    writeFileSync(path, `${lines.join('\n')}\nlast, not ended`)
    const all = () => true
    assert.equal(lastLines(path, 3, all)[0], [...lines.slice(-2), 'last, not ended'])
    assert.equal(lastLines(path, 1e9, all)[0], [...lines, 'last, not ended'])
    assert.equal(lastLines(path, 2, (line) => line.startsWith('1 ') || line.startsWith('0 '))[0], lines.slice(0, 2))
    const many = Array.from({ length: 200_000 }, (_, n) => `2026-11-28 12:00:00 pid:7 [web:0] line ${n}`)
    writeFileSync(path, `${many.join('\n')}\n`)
    const before = process.cpuUsage()
    assert.is(lastLines(path, 1e9, all)[0].length, many.length)
    assert.ok(process.cpuUsage(before).user < 2e6, 'its time grows with the lines, not with their square')
    writeFileSync(path, 'x'.repeat(300_000))
    assert.is(lastLines(path, 5, all)[0].join().length, 300_000)

    writeFileSync(path, 'old\n')
    const said: string[] = []
    const tail = new FileTail(path, lastLines(path, 0, all)[1], (line) => said.push(line))
    appendFileSync(path, 'on')
    tail.look()
    appendFileSync(path, 'e\ntwo\n')
    renameSync(path, `${path}.1`)
    tail.look()
    appendFileSync(`${path}.1`, 'three\n') // by who has not noticed yet
    writeFileSync(path, 'four\n')
    tail.look()
    copyFileSync(path, `${path}.2`)
    truncateSync(path)
    tail.look()
    appendFileSync(path, '5\n')
    tail.look()
    for (const line of ['six', 'seven']) {
      appendFileSync(path, `${line}\n`)
      renameSync(path, `${path}.1`) // twice before anybody looks
    }
    writeFileSync(path, 'eight\n')
    tail.look()
    rmSync(path)
    writeFileSync(path, 'nine\n') // and what lies aside is old
    tail.look()
    tail.close()
    assert.equal(said, ['one', 'two', 'three', 'four', '5', 'six', 'seven', 'eight', 'nine'])
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('right after a rotation, while nothing is logged, the end of the log is that of the rotated file', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(1, SAYING)))
    await ask(portOf(status), 'before')
    await until(() => box.log().includes('said before'))
    renameSync(join(box.runDir, 'millrace.log'), join(box.runDir, 'millrace.log.1'))
    assert.match(succeeded(await box.command('logs', 'echo')).stdout, /said before\n$/)
    const following = box.begin('logs', '-f', '-n', '5')
    await following.says(/said before/)
    appendFileSync(join(box.runDir, 'millrace.log.1'), 'by who has not noticed yet\n')
    await following.says(/not noticed yet/)
    await ask(portOf(status), 'after')
    await following.says(/said after/)
    following.process.kill('SIGINT')
    assert.is((await within(10_000, following.ended)).code, 0)
    await box.stop()
    rmSync(join(box.runDir, 'millrace.log'), { force: true }) // made when the server has noticed
    assert.match(succeeded(await box.command('logs')).stdout, /not noticed yet/)
    rmSync(join(box.runDir, 'millrace.log.1'))
  })
})

test('no more of a log is read than its reader takes, and nothing is missed over a rotation meanwhile', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-tail-'))
  try {
    const path = join(folder, 'log')
    const lines = Array.from({ length: 60_000 }, (_, n) => `line ${n}`)
    writeFileSync(path, '')
    const said: string[] = []
    let room = 0
    const tail = new FileTail(
      path,
      0,
      (line) => {
        said.push(line)
        room--
      },
      () => room <= 0,
    )
    writeFileSync(path, `${lines.slice(0, 20_000).join('\n')}\n`)
    tail.look()
    assert.is(said.length, 0)
    room = 1
    tail.look()
    assert.ok(said.length > 0 && said.length < 10_000, `${said.length} in a piece`)
    renameSync(path, `${path}.1`)
    writeFileSync(path, `${lines.slice(20_000, 40_000).join('\n')}\n`)
    tail.look()
    renameSync(path, `${path}.1`)
    writeFileSync(path, `${lines.slice(40_000).join('\n')}\n`)
    for (let looks = 0; looks < 60 && said.length < lines.length; looks++) {
      room = 1
      tail.look()
    }
    tail.close()
    assert.equal(said, lines)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test.run()
