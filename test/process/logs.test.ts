// Where lines go: each with its worker, as text or JSON, into files that are rotated, bounded, full or forbidden.

import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, readFileSync, readlinkSync, renameSync, rmSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { codeOf } from '../../src/errors.ts'
import { atLength, caseTest, longTest } from '../support/length.ts'
import { ask, echo, inSandbox, portOf, type Sandbox, startFile, succeeded, workersOf } from '../support/server.ts'
import { until, within } from '../support/until.ts'

const LINE = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d pid:\d+ /

/** Lines of 100 bytes, more than any pipe holds. */
const FLOOD = atLength(8_000, 30_000)

/** Prints what it is told: `log x`, `err x`, `out x`, `long 9`, `flood 9`; `die 9` floods before it does. */
const TALKER = `
  const flood = (count) => { for (let n = 0; n < count; n++) console.error(n + ' ' + 'x'.repeat(90)) }
  worker.onMessage = (connection, line) => {
    const [what, ...words] = line.split(' ')
    if (what === 'log') Worker.log(words.join(' '))
    if (what === 'err') console.error(words.join(' '))
    if (what === 'out') console.log(words.join(' '))
    if (what === 'long') Worker.log('y'.repeat(Number(words[0])))
    if (what === 'flood') flood(Number(words[0]))
    if (what === 'die') setImmediate(() => { flood(Number(words[0] ?? 0)); throw new Error('planted') })
    connection.send(String(process.pid))
  }`

async function talker(box: Sandbox, ...args: string[]): Promise<number> {
  return portOf(await box.start(box.file('app.js', echo(1, TALKER)), ...args))
}

/** None of a file that is not there: one that is put aside is so for a moment. */
function lines(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\n').slice(0, -1)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
    return []
  }
}

test('each line of a daemon has time, pid and worker, whatever printed it', async () => {
  await inSandbox(async (box) => {
    const port = await talker(box)
    const pid = await ask(port, 'log one')
    await ask(port, 'err two')
    await ask(port, 'die').catch(() => undefined)
    await until(() => box.log().includes('starting another'))
    for (const line of box.log().split('\n').slice(0, -1)) assert.match(line, LINE)
    assert.match(box.log(), new RegExp(`pid:${pid} \\[echo:0\\] one`))
    assert.match(box.log(), new RegExp(`pid:${pid} \\[echo:0\\] two\n`))
    assert.match(box.log(), /\[echo:0\] uncaught: Error: planted\n.*\[echo:0\] {5}at /)
    assert.ok(box.log().indexOf('planted') < box.log().indexOf('exit 250'), 'the last words come before the end')
    await box.stop()
  })
})

test('a worker that dies behind a flood of lines loses none of them, nor the reason', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'flood.log') // not the one that is shown when a test fails
    const port = await talker(box, '--log-file', path)
    await ask(port, `die ${FLOOD}`).catch(() => undefined) // the answer may die with it
    await until(() => lines(path).some((line) => line.includes('starting another')), 20_000)
    const said = lines(path).filter((line) => /\] (\d+ x|uncaught)|starting/.test(line))
    const numbers = said.slice(0, FLOOD).map((line) => Number(/\] (\d+) x/.exec(line)?.[1]))
    assert.equal(
      numbers,
      Array.from({ length: FLOOD }, (_, n) => n),
    )
    assert.match(said[FLOOD] ?? '', /\] uncaught: Error: planted/)
    assert.match(said[FLOOD + 1] ?? '', /exit 250 .*starting another/)
    await box.stop()
  })
})

longTest('a message of any length is logged whole, in pieces', async () => {
  await inSandbox(async (box) => {
    const port = await talker(box, '--log-format', 'json')
    await ask(port, 'long 1000000')
    await ask(port, 'log end')
    await until(() => box.log().includes('"end"'))
    const entries = box
      .log()
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line))
    const long = entries.filter(({ message }) => /y$/.test(message))
    const [first = '', ...others] = long.map(({ message }) => message)
    for (const message of [first, ...others]) assert.match(message, message === first ? /^y+$/ : /^ {4}\| y+$/)
    assert.is([first, ...others.map((message) => message.slice(6))].join('').length, 1_000_000)
    assert.ok(long.length < 20 && long.every(({ stream }) => stream === undefined))
    await box.stop()
  })
})

longTest('bytes of a peer that are printed end no master', async () => {
  await inSandbox(async (box) => {
    Object.assign(box.env, { TZ: 'Asia/Tokyo' })
    const port = await talker(box)
    const { pid } = await box.status()
    await ask(port, 'err \x1e{"time":"+275760-09-13T00:00:00.000Z","message":"late"}')
    await ask(port, 'err \x1b[2J\u009b2J')
    await until(() => box.log().includes('\\x1b[2J\\x9b2J'))
    assert.match(box.log(), /\[echo:0\] \\x1e\{.*"late"/)
    assert.is((await box.status()).pid, pid)
    await box.stop()
  })
})

longTest('what V8 prints at an abort is in the log, with its worker', async () => {
  await inSandbox(async (box) => {
    const oom = `worker.execArgv = ['--max-old-space-size=32']; worker.onMessage = () => { const all = []; for (;;) all.push(new Array(1e4).fill({})) }`
    const port = portOf(await box.start(box.file('app.js', echo(1, oom))))
    await ask(port, 'x').catch(() => undefined) // its connection dies with it
    await until(() => box.log().includes('starting another'), 20_000)
    assert.match(box.log(), /\[echo:0\] FATAL ERROR: .*heap/)
    assert.match(box.log(), /echo:0 pid \d+: (signal SIGABRT|exit 134)/)
    await box.stop()
  })
})

for (const [how, args, env] of [
  ['the flag', ['--log-format', 'json'], {}],
  ['the variable', [], { MILLRACE_LOG_FORMAT: 'json' }],
] as const) {
  caseTest(how === 'the variable')(`JSON by ${how}: every line is an object`, async () => {
    await inSandbox(async (box) => {
      Object.assign(box.env, env)
      const port = await talker(box, ...args)
      const pid = Number(await ask(port, 'log "quoted"'))
      await ask(port, 'err raw')
      await ask(port, 'die').catch(() => undefined)
      await until(() => box.log().includes('starting another'))
      const entries = box
        .log()
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line))
      for (const { time, pid } of entries) assert.ok(Date.parse(time) > 0 && pid > 0)
      const of = (text: string) => entries.find(({ message }) => message.includes(text))
      assert.equal([of('quoted').pid, of('quoted').worker, of('quoted').stream], [pid, 'echo:0', undefined])
      assert.equal([of('raw').message, of('raw').worker, of('raw').stream], ['raw', 'echo:0', 'stderr'])
      assert.match(of('uncaught').message, /planted\n +at /) // one object, lines and all
      assert.is(of('starting another').worker, undefined)
      await box.stop()
    })
  })
}

longTest('JSON in the foreground: stderr is JSON, stdout is the program', async () => {
  await inSandbox(async (box) => {
    const server = box.begin('start', box.file('app.js', echo(1, TALKER)), '--log-format', 'json')
    await server.says(/Press Ctrl/)
    const port = portOf(await box.status())
    await ask(port, 'err raw')
    await ask(port, 'out plain')
    await server.says(/plain/)
    await server.says(/raw/)
    const { stderr, code } = await server.end('SIGTERM')
    assert.is(code, 0)
    for (const line of stderr.split('\n').slice(0, -1)) JSON.parse(line)
    assert.match(server.stdout, /^plain$/m)
  })
})

longTest('a log that was moved away is opened anew, and no line is lost', async () => {
  await inSandbox(async (box) => {
    const path = join(box.runDir, 'millrace.log')
    const port = await talker(box)
    await ask(port, 'log first')
    await until(() => box.log().includes('first'))
    const moved = box.file('old.log', '')
    renameSync(path, moved)
    let count = 0
    await until(async () => {
      await ask(port, `log number ${count++}`)
      return box.log().includes('number')
    })
    await ask(port, 'err last')
    await until(() => box.log().includes('last'))
    const found = [...lines(moved), ...lines(path)].filter((line) => line.includes('number'))
    assert.equal(
      found.map((line) => Number(line.split(' ').at(-1))),
      Array.from({ length: count }, (_, n) => n),
    )
    await box.stop()
  })
})

longTest('copytruncate works too: what comes after it starts at the beginning', async () => {
  await inSandbox(async (box) => {
    const path = join(box.runDir, 'millrace.log')
    const port = await talker(box)
    await ask(port, 'log first')
    await until(() => box.log().includes('first'))
    truncateSync(path)
    await ask(port, 'log second')
    await until(() => box.log().includes('second'))
    assert.not.ok(box.log().includes('\0'))
    assert.match(lines(path)[0] ?? '', LINE)
    await box.stop()
  })
})

for (const how of ['create 0640', 'nocreate', 'copytruncate']) {
  caseTest(how === 'create 0640')(
    `logrotate itself, ${how}, without a signal: two rotations of log and stdout`,
    async () => {
      await inSandbox(async (box) => {
        const [log, out] = ['app.log', 'app.out'].map((name) => join(box.directory, name)) as [string, string]
        const port = await talker(box, '--log-file', log, '--stdout-file', out, '--log-max-size', '0')
        const rules = box.file('rotate.conf', `${log} ${out} {\n  rotate 5\n  ${how}\n}\n`)
        chmodSync(rules, 0o644)
        let count = 0
        const arrives = (path: string, what: string) =>
          until(async () => {
            const line = `number ${count++}`
            await ask(port, `${what} ${line}`)
            return lines(path).some((one) => one.endsWith(line))
          }, 20_000)
        for (let turn = 0; turn < 2; turn++) {
          await arrives(log, 'err')
          await arrives(out, 'out')
          const args = ['--force', '--state', join(box.directory, 'state'), rules]
          const { status, stderr } = spawnSync('logrotate', args, { encoding: 'utf8' })
          assert.equal([status, stderr], [0, ''])
        }
        await arrives(log, 'err')
        await arrives(out, 'out')
        await box.stop()
        const all = (path: string) => [`${path}.2`, `${path}.1`, path].flatMap(lines)
        assert.not.match([...all(log), ...all(out)].join(), /\0/)
        const numbers = [...all(log), ...all(out)].flatMap((line) => /number (\d+)$/.exec(line)?.[1] ?? [])
        assert.is(new Set(numbers.map(Number)).size, count) // nothing was written between the copy and the cut
        assert.is(numbers.length, count)
      })
    },
  )
}

test('a worker that floods its log fills no disk; meanwhile status answers, and the server goes on', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'flood.log')
    const port = await talker(box, '--log-file', path, '--log-max-size', '100000')
    const flooded = ask(port, `flood ${FLOOD}`)
    await until(() => existsSync(`${path}.1`))
    const started = performance.now()
    await box.status()
    const tookMs = performance.now() - started
    await within(20_000, flooded)
    await until(() => lines(path).some((line) => line.includes(`] ${FLOOD - 1} `)), 20_000)
    assert.ok(tookMs < 5_000, `status took ${tookMs} ms`) // a second, where nothing else runs
    for (const file of [path, `${path}.1`]) assert.ok(statSync(file).size <= 100_000, file)
    const numbers = [...lines(`${path}.1`), ...lines(path)].map((line) => Number(/\] (\d+) x/.exec(line)?.[1]))
    assert.ok(numbers.length > 500)
    for (const [at, number] of numbers.entries()) if (at > 0) assert.is(number, (numbers[at - 1] ?? 0) + 1)
    assert.is(workersOf(await box.status())[0]?.incarnation, 1)
    await ask(port, 'log still here')
    await until(() => lines(path).some((line) => line.includes('still here')))
    await box.stop()
  })
})

longTest('a log and a stdout file of one path are one file, with every line and one bound', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'both.log')
    const port = await talker(box, '--log-file', path, '--stdout-file', path, '--log-max-size', '20000')
    for (let n = 0; n < 100; n++) {
      await ask(port, `out number ${n} ${'x'.repeat(500)}`)
      await ask(port, `log number ${n} ${'x'.repeat(500)}`)
      for (const file of [path, `${path}.1`]) if (existsSync(file)) assert.ok(statSync(file).size <= 20_000, file)
    }
    await until(() => lines(path).filter((line) => line.includes('number 99 ')).length === 2)
    const kept = [...lines(`${path}.1`), ...lines(path)].filter((line) => line.includes('number '))
    // Over two pipes: which line of which is the oldest that is kept, nobody promises. Behind it none lacks.
    for (const isLog of [true, false]) {
      const mine = kept.filter((line) => /^\d{4}-/.test(line) === isLog)
      const found = mine.map((line) => Number(/number (\d+)/.exec(line)?.[1]))
      const [first = 100] = found
      assert.ok(found.length > 15, `${found.length}`)
      assert.equal(
        found,
        Array.from({ length: 100 - first }, (_, at) => first + at),
      )
    }
    await box.stop()
  })
})

for (const side of addon().sys === null ? ['none'] : ['', 'none']) {
  caseTest(side !== 'none' || addon().sys === null)(
    `what V8 would print of a daemon's master goes ${side === '' ? 'to the new log' : 'on to the old one'} after a rotation`,
    async () => {
      await inSandbox(async (box) => {
        box.env.MILLRACE_ADDON = side
        const { pid } = await box.start(box.file('app.js', echo(1)))
        const path = join(box.runDir, 'millrace.log')
        assert.is(readlinkSync(`/proc/${pid}/fd/2`), path)
        const moved = box.file('old.log', '')
        renameSync(path, moved)
        await box.operate({ command: 'reload' })
        assert.is(readlinkSync(`/proc/${pid}/fd/2`), side === '' ? path : moved)
        await box.stop()
      })
    },
  )
}

test('the stdout file is the program alone, opened anew when it was moved away, and bounded', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'app.out')
    const port = await talker(box, '--stdout-file', path, '--log-max-size', '50000')
    await ask(port, 'out first')
    await until(() => lines(path).includes('first'))
    const moved = box.file('old.out', '')
    renameSync(path, moved)
    let count = 0
    await until(async () => {
      await ask(port, `out number ${count++}`)
      return lines(path).some((line) => line.startsWith('number'))
    })
    await ask(port, 'out end')
    await until(() => lines(path).includes('end'))
    assert.equal(
      [...lines(moved), ...lines(path)],
      ['first', ...Array.from({ length: count }, (_, n) => `number ${n}`), 'end'],
    )
    for (let n = 0; n < 200; n++) await ask(port, `out ${n} ${'x'.repeat(1000)}`)
    await until(() => lines(path).at(-1)?.startsWith('199 '))
    assert.ok(statSync(path).size <= 50_000 && statSync(`${path}.1`).size <= 50_000)
    await box.stop()
  })
})

test('settings in the code are followed, the command line wins, and a reload follows them again', async () => {
  await inSandbox(async (box) => {
    const [log, out, other] = ['code.log', 'code.out', 'flag.log'].map((name) => join(box.directory, name))
    const code = (name = log) => `${TALKER}
      Worker.logFile = ${JSON.stringify(name)}; Worker.stdoutFile = ${JSON.stringify(out)}
      Worker.pidFile = ${JSON.stringify(join(box.directory, 'code.pid'))}`
    const module = box.file('app.js', echo(1, code()))
    let { pid, groups } = await box.start(module)
    let port = groups[0]?.port ?? 0
    assert.is(readFileSync(join(box.directory, 'code.pid'), 'utf8'), `${pid}\n`)
    await ask(port, 'log in the log')
    await ask(port, 'out in the out')
    await until(() => lines(log ?? '').some((line) => line.includes('[echo:0] in the log')))
    await until(() => lines(out ?? '').includes('in the out'))
    box.file('app.js', echo(1, code(join(box.directory, 'new.log'))))
    await box.operate({ command: 'reload' })
    await ask(port, 'log after')
    await until(() => lines(join(box.directory, 'new.log')).some((line) => line.includes('[echo:0] after')))
    await box.stop()
    assert.not(existsSync(join(box.directory, 'code.pid')))
    ;({ pid, groups } = await box.start(module, '--log-file', other ?? ''))
    port = groups[0]?.port ?? 0
    await ask(port, 'log by flag')
    await until(() => lines(other ?? '').some((line) => line.includes('by flag')))
    await box.stop()
  })
})

longTest('flags win over the environment, and that over the code', async () => {
  await inSandbox(async (box) => {
    const [code, env, flag] = ['code', 'env', 'flag'].map((name) => join(box.directory, name)) as [
      string,
      string,
      string,
    ]
    const module = box.file(
      'app.js',
      echo(
        1,
        `${TALKER}
        Worker.logFile = ${JSON.stringify(`${code}.log`)}; Worker.stdoutFile = ${JSON.stringify(`${code}.out`)}
        Worker.logFileMaxSize = 20000`,
      ),
    )
    const all = { MILLRACE_LOG_FILE: `${env}.log`, MILLRACE_STDOUT_FILE: `${env}.out`, MILLRACE_LOG_MAX_SIZE: '0' }
    const turns: [string, object, string[], boolean][] = [
      [code, {}, [], true],
      [env, all, [], false],
      [flag, all, ['--log-file', `${flag}.log`, '--stdout-file', `${flag}.out`, '--log-max-size', '20000'], true],
    ]
    for (const [name, variables, args, isBounded] of turns) {
      Object.assign(box.env, variables)
      const port = portOf(await box.start(module, ...args))
      for (const what of ['flood 1000', 'log the log', 'out the out']) await ask(port, what)
      await until(() => lines(`${name}.log`).some((line) => line.endsWith('[echo:0] the log')))
      await until(() => lines(`${name}.out`).includes('the out'))
      assert.is(existsSync(`${name}.log.1`), isBounded, name)
      await box.stop()
      for (const other of [code, env, flag]) {
        if (other === name) continue
        assert.not(
          lines(`${other}.log`).some((line) => line.includes('the log')),
          `${other} in the turn of ${name}`,
        )
        assert.not(lines(`${other}.out`).includes('the out'))
      }
      for (const suffix of ['log', 'out', 'log.1']) rmSync(`${name}.${suffix}`, { force: true })
    }
  })
})

longTest('in the foreground a log file has the lines, and so has the terminal', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'f.log')
    const server = await box.foreground(box.file('app.js', echo(1, TALKER)), '--log-file', path)
    await ask(portOf(await box.status()), 'log both')
    await server.says(/\[echo:0\] both/)
    await until(() => lines(path).some((line) => line.endsWith('[echo:0] both')))
    assert.is((await server.end('SIGTERM')).code, 0)
  })
})

longTest('in the foreground a reader that has stopped costs lines, and not the server or its memory', async () => {
  await inSandbox(async (box) => {
    const server = await box.foreground(box.file('app.js', echo(1, TALKER)), '--log-format', 'json')
    server.process.stderr?.pause()
    const { pid, groups } = await box.status()
    const port = groups[0]?.port ?? 0
    const before = residentBytes(pid)
    for (let n = 0; n < 10; n++) await ask(port, 'flood 20000') // 19 MB, and twice that as JSON
    assert.ok(residentBytes(pid) - before < 60_000_000, `from ${before} to ${residentBytes(pid)} bytes`)
    assert.is(workersOf(await box.status())[0]?.incarnation, 1)
    server.process.stderr?.resume()
    await until(async () => {
      await ask(port, 'log again')
      return server.stderr.includes('"again"')
    })
    await server.says(/\d{7,} bytes of log were lost/)
    const { code, stderr } = await server.end('SIGTERM')
    assert.is(code, 0)
    for (const line of stderr.split('\n').slice(0, -1)) JSON.parse(line)
  })
})

function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
}

for (const [what, line] of [
  ['full', '"$@" 2>/dev/full'],
  ['closed', '"$@" 2>&-'],
  ['a pipe whose reader has left', '{ "$@" 2>&4 | cat; } 4>&1 >&3 | true'],
] as const) {
  caseTest(what === 'a pipe whose reader has left')(
    `JSON in the foreground goes on when stderr is ${what}`,
    async () => {
      await inSandbox(async (box) => {
        const module = box.file('app.js', echo(1, TALKER))
        const args = [
          '-c',
          `exec 3>&1; ${line}`,
          'sh',
          process.execPath,
          startFile,
          'start',
          module,
          '--log-format',
          'json',
        ]
        const server = box.spawn('sh', args)
        await server.says(/Press Ctrl/)
        const port = portOf(await box.status())
        for (let n = 0; n < 3; n++) await ask(port, 'flood 2000')
        assert.is(workersOf(await box.status())[0]?.incarnation, 1)
        await box.stop()
      })
    },
  )
}

test('a limit on the size of files costs lines, not the server', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1, TALKER))
    const args = ['-c', 'ulimit -f 200; exec "$@"', 'sh', process.execPath, startFile, 'start', '-d', module]
    succeeded(await box.spawn('sh', args).ended)
    const { pid, groups } = await box.status()
    const port = groups[0]?.port ?? 0
    await ask(port, 'flood 5000')
    truncateSync(join(box.runDir, 'millrace.log'))
    await ask(port, 'log again')
    await until(() => /\d+ bytes of log were lost/.test(box.log()) && box.log().includes('] again'))
    for (const line of box.log().split('\n').slice(0, -1)) if (line !== '') assert.match(line, LINE)
    assert.is((await box.status()).pid, pid)
    await box.stop()
  })
})

longTest('a full disk costs lines, not the server', async () => {
  await inSandbox(async (box) => {
    const port = await talker(box, '--log-file', '/dev/full', '--stdout-file', '/dev/full')
    await ask(port, 'flood 1000')
    await ask(port, 'out x')
    await ask(port, 'log x')
    assert.is(workersOf(await box.status())[0]?.incarnation, 1)
    await box.stop()
  })
})

for (const [flag, what] of [
  ['--log-file', 'log'],
  ['--stdout-file', 'stdout'],
] as const) {
  test(`a ${what} file that cannot be written ends the start with the reason`, async () => {
    await inSandbox(async (box) => {
      const path = join(box.file('file', ''), 'below')
      const { code, stderr } = await box.command('start', '-d', box.file('app.js', echo(1)), flag, path)
      assert.is(code, 1)
      assert.match(stderr, /open .*below: ENOTDIR/)
    })
  })
}

longTest('a log file in the code that cannot be written leaves the old one in place at a reload', async () => {
  await inSandbox(async (box) => {
    const port = await talker(box)
    const path = join(box.file('file', ''), 'below')
    box.file('app.js', echo(1, `${TALKER}; Worker.logFile = ${JSON.stringify(path)}`))
    const { code, stderr } = await box.command('reload')
    assert.is(code, 1)
    assert.match(stderr, /ENOTDIR/)
    await ask(port, 'log still')
    await until(() => box.log().includes('[echo:0] still'))
    await box.stop()
  })
})

for (const args of [
  ['--log-format', 'xml'],
  ['--log-max-size', 'big'],
  ['--log-max-size', '-1'],
  ['--umask', '999'],
]) {
  caseTest(args[1] !== '-1' && args[0] !== '--umask')(`${args.join(' ')} is exit 2`, async () => {
    await inSandbox(async (box) => {
      const { code, stderr } = await box.command('start', box.file('app.js', echo(1)), ...args)
      assert.is(code, 2)
      assert.match(stderr, new RegExp(args[0] ?? ''))
    })
  })
}

test('an output file that a reload brings has what the processes of that reload print, from their start on', async () => {
  await inSandbox(async (box) => {
    const out = join(box.directory, 'new.out')
    const module = box.file('app.js', echo(1, TALKER))
    const port = portOf(await box.start(module))
    const named = `Worker.stdoutFile = ${JSON.stringify(out)}`
    box.file('app.js', echo(1, `${TALKER}; ${named}; worker.onWorkerStart = () => { console.log('new'); throw 'no' }`))
    const failure = await box.operate({ command: 'reload' }).catch(({ message }) => message)
    assert.match(String(failure), /given up/)
    await until(() => lines(out).includes('new'))
    box.file('app.js', echo(1, `${TALKER}; ${named}; worker.onWorkerStart = () => console.log('up')`))
    await box.operate({ command: 'reload' })
    await ask(port, 'out after')
    await until(() => lines(out).includes('after'))
    assert.ok(lines(out).includes('up'))
    await box.stop()
  })
})

longTest(
  'a log file that a reload brings in the foreground has the lines of the processes of that reload',
  async () => {
    await inSandbox(async (box) => {
      const path = join(box.directory, 'new.log')
      const module = box.file('app.js', echo(1, TALKER))
      const server = await box.foreground(module)
      box.file('app.js', echo(1, `${TALKER}; Worker.logFile = ${JSON.stringify(path)}`))
      await box.operate({ command: 'reload' })
      await ask(portOf(await box.status()), 'log both')
      await until(() => lines(path).some((line) => line.endsWith('[echo:0] both')))
      await server.says(/\[echo:0\] both/)
      box.file('app.js', echo(1, TALKER))
      await box.operate({ command: 'reload' })
      await ask(portOf(await box.status()), 'log later')
      await server.says(/\[echo:0\] later/)
      assert.is((await server.end('SIGTERM')).code, 0)
    })
  },
)

test.run()
