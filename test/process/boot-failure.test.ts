// A module that cannot be a server: `start` says why in words of the user's own code, with exit code 6 (7 for a worker
// that is never ready), in the foreground and with -d alike, and leaves nothing.

import { renameSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { CommandError } from '../../src/process/exit-codes.ts'
import { onceUnstarted, type Program, spawnChild } from '../../src/process/spawn.ts'
import { atLength, caseTest, longTest } from '../support/length.ts'
import { release } from '../support/release.ts'
import {
  ask,
  echo,
  HANGS,
  inSandbox,
  type Outcome,
  portOf,
  type Sandbox,
  startFile,
  succeeded,
} from '../support/server.ts'
import { until, within } from '../support/until.ts'
import { root } from '../tooling/support.ts'

const declare = `import { Worker } from 'millrace'\n`

/** Exit code 6 and the reason, as a daemon and (in the long suite) in the foreground; nothing was announced. */
async function refused(box: Sandbox, module: string, says: RegExp, code = 6): Promise<void> {
  for (const flags of [['-d'], []].slice(0, atLength(1, 2)))
    check(await box.command('start', ...flags, module), says, code)
}

function check({ code, stdout, stderr }: Outcome, says: RegExp, expected: number): void {
  assert.match(stderr, says)
  assert.is(code, expected, stderr)
  assert.not.match(stdout, /\[OK\]/)
}

const MODULES: Record<string, [string, RegExp]> = {
  'throws at its top level': [`${declare}throw new Error('planted')`, /Error: planted\n +at .*app\.js:2:7/],
  'has a syntax error': [`${declare}\nconst = 1`, /app\.js:3\n {4}\| const = 1\n {4}\| +\^\n+ {4}\| SyntaxError: /],
  'imports what is not there': [`import 'no-such-package'`, /Cannot find package 'no-such-package'/],
  'rejects at its top level': [`await Promise.reject(new RangeError('planted'))`, /RangeError: planted/],
  'leaves a rejection unhandled': [
    `import { setTimeout as sleep } from 'node:timers/promises'
    void Promise.reject(new RangeError('planted')); await sleep(20); ${echo()}`,
    /RangeError: planted/,
  ],
  'throws a string': [`throw 'planted words'`, /app\.js threw 'planted words'/],
  'exits at its top level': ['process.exit(0)', /ended the process at its top level \(exit 0\)/],
  'kills itself': [`process.kill(process.pid, 'SIGKILL')`, /ended the process at its top level \(signal SIGKILL\)/],
  'awaits what never comes': [
    `${declare}await new Promise(() => {}); Worker.runAll()`,
    /app\.js awaits something that never/,
  ],
  'never calls runAll': [`${declare}new Worker('text://127.0.0.1:0')`, /app\.js never called Worker\.runAll\(\)/],
  'declares no Worker': [`${declare}Worker.runAll()`, /declared no Worker/],
  'names an unknown scheme': [
    `${declare}new Worker('gopher://127.0.0.1:0'); Worker.runAll()`,
    /gopher.*\btcp\b.*\btext\b|gopher.*\bframe\b.*\btcp\b/s,
  ],
  'gives a bad address': [
    `${declare}new Worker('text://127.0.0.1'); Worker.runAll()`,
    /bad address 'text:.*write tcp:/,
  ],
  'gives a port that is none': [`${declare}new Worker('text://[::1]:65536'); Worker.runAll()`, /65536 is no port/],
  'gives an unknown option': [
    `${declare}new Worker('text://127.0.0.1:0', { cuont: 4 }); Worker.runAll()`,
    /no option 'cuont'/,
  ],
  'gives a count that is no number': [
    `${declare}new Worker('text://127.0.0.1:0', { count: NaN }); Worker.runAll()`,
    /count of worker 'none' is NaN/,
  ],
  'gives a count without end': [
    `${declare}new Worker('text://127.0.0.1:0', { count: Infinity }); Worker.runAll()`,
    /count of worker 'none' is Infinity/,
  ],
  'gives a log file that is no name': [
    `${declare}new Worker(); Worker.logFile = undefined; Worker.runAll()`,
    /Worker\.logFile is undefined: it must be a string\n.*app\.js:2/s,
  ],
  'gives a time to stop that is none': [
    `${declare}new Worker(); Worker.stopTimeout = '2'; Worker.runAll()`,
    /Worker\.stopTimeout is '2': it must be a number from 0 on/,
  ],
  'gives a log a bound that is none': [
    `${declare}new Worker(); Worker.logFileMaxSize = NaN; Worker.runAll()`,
    /Worker\.logFileMaxSize is NaN/,
  ],
  'gives a Unix path that is too long': [
    `${declare}new Worker('unix:///tmp/${'x'.repeat(120)}'); Worker.runAll()`,
    /has 125 bytes, the limit is 107/,
  ],
}

/** One of each kind; what else a setting may not be is what worker.test.ts is about. */
const EVERY_DAY =
  /^(throws at|has a syntax|imports|rejects at|exits at|kills|awaits|never calls|declares no|gives a bad address|gives an unknown)/

for (const [at, [what, [text, says]]] of Object.entries(MODULES).entries()) {
  caseTest(EVERY_DAY.test(what))(`a module that ${what} is refused with the reason`, async () => {
    const flags = at % 2 === 0 ? ['-d'] : []
    await inSandbox(async (box) => check(await box.command('start', ...flags, box.file('app.js', text)), says, 6))
  })
}

test('a syntax error in an imported module says where to look', async () => {
  await inSandbox(async (box) => {
    box.file('part.js', 'export const = 1')
    const module = box.file('app.js', `import './part.js'\n${echo()}`)
    check(await box.command('check', module), /in \S+app\.js or a module that it imports:\nSyntaxError: /, 6)
  })
})

test('a stack points at the TypeScript that was written', async () => {
  await inSandbox((box) =>
    refused(
      box,
      join(root, 'build/test/fixtures/throws.js'),
      /TypeError: planted: no configuration\n +at .*test\/fixtures\/throws\.ts:10:\d+/,
    ),
  )
})

longTest('a top level that never ends is ended after ten seconds', async () => {
  await inSandbox(async (box) => {
    const started = performance.now()
    const hanging = box.begin('start', '-d', box.file('hangs.js', HANGS))
    const waiting = box.begin(
      'start',
      '--run-dir',
      `${box.runDir}-2`,
      box.file('waits.js', 'setInterval(() => {}, 50)'),
    )
    check(await hanging.ended, /hangs\.js.*within 10 s/, 6)
    check(await waiting.ended, /waits\.js.*runAll\(\) within 10 s/, 6)
    assert.ok(performance.now() - started >= 10_000)
  })
})

longTest('stop ends a start whose top level never ends, at once', async () => {
  await inSandbox(async (box) => {
    const starting = box.begin('start', '-d', box.file('app.js', `console.error('spinning'); ${HANGS}`))
    await until(() => box.log().includes('spinning'))
    assert.is((await box.command('stop')).code, 0)
    const { code, stderr } = await starting.ended
    assert.is(code, 1)
    assert.match(stderr, /stopped before/)
  })
})

test('there is no such file', async () => {
  await inSandbox((box) => refused(box, join(box.directory, 'missing.js'), /there is no file .*missing\.js/))
})

test('an onWorkerStart that throws is tried five times', async () => {
  await inSandbox(async (box) => {
    const throwing = `worker.onWorkerStart = () => { console.error('try'); throw new Error('planted') }`
    const { code, stderr } = await box.command('start', box.file('app.js', echo(1, throwing)))
    assert.is(code, 6)
    assert.is(stderr.match(/^try$/gm)?.length, 5)
    assert.match(stderr, /Error: planted\n +at .*app\.js:/)
  })
})

longTest('workers that die as soon as they are ready, and so are never ready together, end the start', async () => {
  await inSandbox((box) =>
    refused(
      box,
      box.file(
        'app.js',
        echo(
          2,
          `worker.onWorkerStart = () => {
            if (worker.id === 1) return new Promise(() => {})
            setTimeout(() => process.exit(5), 20)
          }`,
        ),
      ),
      /worker echo:0: exit 5/,
    ),
  )
})

longTest('a worker that exits before it is ready counts as a boot that failed', async () => {
  await inSandbox((box) =>
    refused(box, box.file('app.js', echo(1, `worker.onWorkerStart = () => process.exit(3)`)), /worker echo:0: exit 3/),
  )
})

test('an error of the user that looks like an address is none: exit code 6, with its stack', async () => {
  await inSandbox((box) =>
    refused(
      box,
      box.file(
        'app.js',
        echo(1, `worker.onWorkerStart = () => { throw Object.assign(new Error('planted'), { code: 'EACCES' }) }`),
      ),
      /Error: planted\n +at .*app\.js:/,
    ),
  )
})

test('an onWorkerStart that never settles is a time-out: exit code 7', async () => {
  await inSandbox((box) =>
    refused(
      box,
      box.file('app.js', echo(1, 'worker.startTimeoutMs = 300; worker.onWorkerStart = () => new Promise(() => {})')),
      /worker echo:\d: not ready within 0\.3 s .*onWorkerStart/,
      7,
    ),
  )
})

longTest('a startTimeoutMs of Infinity is for ever, not at once', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(
      box.file('app.js', echo(1, 'worker.startTimeoutMs = Infinity; Worker.stopTimeout = Infinity')),
    )
    assert.match(await ask(portOf(status), 'hello'), /^hello/)
    await box.stop()
  })
})

longTest('after a start that failed, the next one works', async () => {
  await inSandbox(async (box) => {
    await refused(box, box.file('app.js', 'throw new Error("planted")'), /planted/)
    await box.start(box.file('app.js', echo()))
    await box.stop()
  })
})

test('what a process may have is not enough: a failure of the machine, exit code 1, with what helps', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(8))
    const limited = `ulimit -n 30; exec "$0" "$@"`
    const outcome = await box.spawn('sh', ['-c', limited, process.execPath, startFile, 'start', '-d', module]).ended
    check(outcome, /EMFILE\nnext: raise what it may have \(ulimit -n/, 1)
  })
})

test('a start file or a Node that is gone is named, with what brings the server on', async () => {
  const here = { node: process.execPath, startFile }
  const why = async (program: Program) => {
    const boot = { role: 'describe', modules: [], argv: [], user: '', group: '', engine: undefined } as const
    const { process: child } = spawnChild(
      { ...boot, isLogPiped: false },
      { stdio: ['ignore', 'ignore', 'ignore'], isDetached: true, program: () => program },
    )
    const error = await within(5000, new Promise<CommandError>((resolve) => onceUnstarted(child, resolve)))
    return `${error.message}; ${error.next}`
  }
  assert.match(
    await why({ ...here, startFile: '/no/start.js' }),
    /the start file of millrace is gone, open \/no\/start\.js: ENOENT.*npm install.*bundled.*--packages=external/,
  )
  assert.match(
    await why({ ...here, node: '/no/node' }),
    /spawn \/no\/node ENOENT; the Node .* is gone: 'millrace upgrade'/,
  )
})

longTest('an ES module that a package.json calls CommonJS, as npm init does, is told how it becomes one', async () => {
  await inSandbox(async (box) => {
    box.file('package.json', '{ "type": "commonjs" }')
    box.file('exporting.js', 'export const name = 1')
    for (const module of [box.file('app.js', echo()), box.file('b.js', `require('./exporting.js')`)]) {
      const { code, stderr } = await box.command('check', module)
      assert.is(code, 6)
      assert.match(stderr, /\.js:\d+\n(?:.*\n)*SyntaxError: .*\n.*npm pkg set type=module .* \.mjs\n/)
    }
  })
})

longTest('a package that is away blames no code: the server goes on, and is reloaded when it is back', async () => {
  await inSandbox(async (box) => {
    release(box, '1.0.0')
    const [there, away] = ['1.0.0', 'away'].map((name) => join(box.directory, 'releases', name)) as [string, string]
    const module = box.file('app.js', echo())
    await box.start(module)
    renameSync(there, away)
    const { code, stderr } = await box.command('reload', module)
    assert.is(code, 1)
    assert.match(
      stderr,
      /the start file of millrace is gone, open \S+1\.0\.0\/dist\/start\.js.*\nnext: .*millrace upgrade/,
    )
    renameSync(away, there)
    succeeded(await box.command('reload', module))
    await box.stop()
  })
})

test.run()
