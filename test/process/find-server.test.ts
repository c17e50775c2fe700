// Commands find the server wherever its start has put it: from cron, from sudo. And they find nobody else's, whatever
// somebody has put where a server could be.

import { chmodSync, chownSync, existsSync, lchownSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { basename, dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { runDirCandidates } from '../../src/process/run-directory.ts'
import { caseTest, longTest } from '../support/length.ts'
import { ask, echo, inSandbox, lives, portOf, type Sandbox, startFile, succeeded } from '../support/server.ts'

const isRoot = process.getuid?.() === 0
const NOBODY = 65_534

/** No run directory is given: it is looked for. */
function withoutRunDir(box: Sandbox, env: Record<string, string | undefined> = {}): string {
  chmodSync(box.directory, 0o755)
  const temporary = join(box.directory, 'tmp')
  mkdirSync(temporary)
  chmodSync(temporary, 0o1777)
  Object.assign(box.env, { MILLRACE_RUN_DIR: undefined, XDG_RUNTIME_DIR: undefined, TMPDIR: temporary, ...env })
  return box.file('app.js', echo(1))
}

if (isRoot) {
  test('cron, which has no XDG_RUNTIME_DIR, finds the server of a session', async () => {
    const session = '/run/user/0'
    const isOurs = !existsSync(session)
    mkdirSync(session, { recursive: true, mode: 0o700 })
    try {
      await inSandbox(async (box) => {
        const module = withoutRunDir(box, { XDG_RUNTIME_DIR: session })
        succeeded(await box.command('start', '-d', module))
        box.env.XDG_RUNTIME_DIR = undefined
        const status = JSON.parse(succeeded(await box.command('status', '--json', module)).stdout)
        assert.match(status.runDir, /^\/run\/user\/0\/millrace\//)
        assert.is((await box.command('start', '-d', module)).code, 4)
        succeeded(await box.command('reload', module))
        succeeded(await box.command('stop', module))
        rmSync(status.runDir, { recursive: true })
      })
    } finally {
      if (isOurs) rmSync(session, { recursive: true })
    }
  })

  test("root finds another user's server, and does not take it for a second one of its own", async () => {
    await inSandbox(async (box) => {
      const module = withoutRunDir(box)
      const asNobody = (...args: string[]) =>
        box.spawn(process.execPath, [startFile, ...args], { uid: NOBODY, gid: NOBODY }).ended
      succeeded(await asNobody('start', '-d', module))
      const theirs = JSON.parse(succeeded(await box.command('status', '--json', module)).stdout)
      assert.match(theirs.runDir, /tmp\/millrace-65534\//)
      succeeded(await box.command('start', '-d', module))
      const own = JSON.parse(succeeded(await box.command('status', '--json', module)).stdout)
      assert.not.equal(own.pid, theirs.pid)
      const seen = await asNobody('status', module)
      assert.is(seen.code, 0)
      succeeded(await box.command('stop', module)) // our own first
      assert.ok(lives(theirs.pid))
      succeeded(await box.command('stop', module)) // then theirs
      assert.not(lives(theirs.pid))
      rmSync(own.runDir, { recursive: true, force: true })
    })
  })

  longTest(
    "a link in the place of another user's control socket does not lead root to a server of its own",
    async () => {
      await inSandbox(async (box) => {
        const module = withoutRunDir(box)
        succeeded(await box.command('start', '-d', module))
        const { runDir, pid } = JSON.parse(succeeded(await box.command('status', '--json', module)).stdout)
        const other = box.file('other.js', echo(1))
        const trap = join(
          box.directory,
          'tmp/millrace-65534',
          basename(runDirCandidates(other, undefined).paths[0] ?? ''),
        )
        own(trap, NOBODY)
        symlinkSync(join(runDir, 'control.sock'), join(trap, 'control.sock'))
        lchownSync(join(trap, 'control.sock'), NOBODY, NOBODY)
        assert.is((await box.command('stop', other)).code, 3)
        assert.ok(lives(pid))
        succeeded(await box.command('stop', module))
        rmSync(runDir, { recursive: true })
      })
    },
  )

  longTest('a TMPDIR that one shell has and the other has not is no hiding place', async () => {
    await inSandbox(async (box) => {
      const module = withoutRunDir(box)
      const asNobody = (TMPDIR: string, ...args: string[]) => {
        const env = { ...box.env, TMPDIR }
        return box.spawn(process.execPath, [startFile, ...args], { env, uid: NOBODY, gid: NOBODY }).ended
      }
      const [here, there] = ['/tmp', box.env.TMPDIR ?? '']
      succeeded(await asNobody(here, 'start', '-d', module))
      const status = JSON.parse(succeeded(await asNobody(there, 'status', '--json', module)).stdout)
      assert.match(status.runDir, /^\/tmp\/millrace-65534\//)
      assert.is((await asNobody(there, 'start', '-d', module)).code, 4)
      succeeded(await box.command('stop', module)) // root, whose TMPDIR is another one
      rmSync(status.runDir, { recursive: true })
    })
  })

  test('a user is told that a server of root may be there', async () => {
    await inSandbox(async (box) => {
      const module = withoutRunDir(box)
      succeeded(await box.command('start', '-d', module))
      const { runDir } = JSON.parse((await box.command('status', '--json', module)).stdout)
      assert.match(runDir, /^\/run\/millrace\//)
      const { code, stderr } = await box.spawn(process.execPath, [startFile, 'stop', module], {
        uid: NOBODY,
        gid: NOBODY,
      }).ended
      assert.is(code, 3)
      assert.match(stderr, /another user's server may be in \/run\/millrace\/.*: try sudo/)
      succeeded(await box.command('stop', module))
      rmSync(runDir, { recursive: true })
    })
  })

  longTest('a place that its name belies, that others can enter, or that is a link, is not asked', async () => {
    await inSandbox(async (box) => {
      const module = withoutRunDir(box)
      const hash = basename(runDirCandidates(module, undefined).paths[0] ?? '')
      const temporary = join(box.directory, 'tmp')
      const traps: [string, (path: string) => void][] = [
        ['millrace-1234', (path) => own(path, NOBODY)],
        [
          'millrace-1235',
          (path) => {
            own(path, 1235)
            chmodSync(path, 0o777)
          },
        ],
        [
          'millrace-1236',
          (path) => {
            own(path, 1236)
            chmodSync(dirname(path), 0o755)
          },
        ],
        [
          'millrace-1237',
          (path) => {
            mkdirSync(dirname(path), { mode: 0o700 })
            symlinkSync(box.directory, path)
            lchownSync(path, 1237, 1237)
            chownSync(dirname(path), 1237, 1237)
          },
        ],
      ]
      let asked = 0
      const servers: net.Server[] = []
      for (const [name, make] of traps) {
        const path = join(temporary, name, hash)
        make(path)
        const server = net.createServer((socket) => {
          asked++
          socket.end('{"ok":true,"pid":1,"startTime":""}\n')
        })
        servers.push(server.listen(join(path, 'control.sock')))
      }
      try {
        for (const command of ['status', 'stop', 'reload', 'connections'])
          assert.is((await box.command(command, module)).code, 3)
        assert.is(asked, 0)
      } finally {
        for (const server of servers) server.close()
      }
    })
  })
}

function own(path: string, uid: number): void {
  mkdirSync(path, { recursive: true, mode: 0o700 })
  chmodSync(dirname(path), 0o700)
  for (const one of [dirname(path), path]) chownSync(one, uid, uid)
}

/** What no pid file may do: our own process, every process, init, the group of who reads it. */
const HOSTILE = [
  '',
  '-1',
  '0',
  '1',
  `${process.pid}`,
  '-1\n',
  'garbage',
  '1 -1',
  '99999999999999999999',
  `{"pid":${process.pid}}`,
]

/** The others are read alike. */
const EVERY_DAY = ['-1', `{"pid":${process.pid}}`]

for (const text of HOSTILE) {
  caseTest(EVERY_DAY.includes(text))(
    `a pid file, a lock and a record of ${JSON.stringify(text)}: nobody is signalled, and everything works`,
    async () => {
      await inSandbox(async (box) => {
        mkdirSync(box.runDir, { mode: 0o700 })
        for (const name of ['millrace.pid', 'lock', 'workers.json']) writeFileSync(join(box.runDir, name), text)
        const bystander = box.spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { env: process.env })
        assert.is((await box.command('stop')).code, 3)
        assert.is((await box.command('reload')).code, 3)
        const status = await box.start(box.file('app.js', echo(1)))
        for (const name of ['millrace.pid']) writeFileSync(join(box.runDir, name), text)
        await ask(portOf(status), 'x')
        await box.operate({ command: 'reload' })
        await box.stop()
        assert.ok(bystander.process.exitCode === null && bystander.process.signalCode === null)
        rmSync(join(box.runDir, 'millrace.pid'), { force: true }) // somebody else's by now: it is left alone
        await bystander.end('SIGKILL')
      })
    },
  )
}

test.run()
