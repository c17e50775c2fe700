// Who workers run as. Started by root they become somebody else before any user code, for good, or do not boot at all.

import dgram from 'node:dgram'
import { once } from 'node:events'
import { chmodSync, chownSync, existsSync, linkSync, mkdirSync, readFileSync, statSync, symlinkSync } from 'node:fs'
import net from 'node:net'
import { dirname, join } from 'node:path'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { fileId } from '../../src/net/bound-socket.ts'
import { Authority } from '../support/certificates.ts'
import { caseTest, longTest } from '../support/length.ts'
import { ask, echo, inSandbox, portOf, type Sandbox, startFile, succeeded } from '../support/server.ts'
import { until } from '../support/until.ts'

const NOBODY = 65_534
/** A user of Debian's base-passwd, with a group of its own. */
const DAEMON = 1

/** Tells who it is, and who it was when the module was evaluated. */
const WHO = `
  const who = () => [process.getuid(), process.geteuid(), process.getgid(), process.getegid(), ...process.getgroups().sort()].join(' ')
  const first = who()
  worker.onMessage = (connection, line) => {
    if (line === 'who') connection.send(who())
    if (line === 'first') connection.send(first)
    if (line === 'home') connection.send(process.env.HOME + ' ' + process.env.USER)
    if (line === 'back') try { process.setuid(0); connection.send('root') } catch (error) { connection.send(error.code) }
    if (line.startsWith('/')) import('node:fs').then(({ readdirSync }) => {
      try { connection.send(readdirSync(line).join()) } catch (error) { connection.send(error.code) }
    })
  }`

/** Only root can become somebody else. Another user's run proves that it is refused. */
const isRoot = process.getuid?.() === 0

/** One line there and one back, over TLS. */
function askSafely(port: number, line: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () => socket.write(`${line}\n`))
    socket.on('error', reject).once('data', (data) => {
      socket.destroy()
      resolve(String(data).trim())
    })
  })
}

/** One datagram there and one back. */
function askByDatagram(port: number, line: string): Promise<string> {
  const socket = dgram.createSocket('udp4')
  return new Promise((resolve) => {
    socket.once('message', (data) => {
      socket.close()
      resolve(String(data).trim())
    })
    socket.send(`${line}\n`, port, '127.0.0.1')
  })
}

/** What kill -9 of a server leaves. Returns the id of the file. */
async function leaveStale(path: string): Promise<string> {
  const server = net.createServer().listen(`${path}.live`)
  await once(server, 'listening')
  linkSync(`${path}.live`, path)
  server.close()
  await once(server, 'close')
  return fileId(path)
}

function program(box: Sandbox, more = ''): string {
  chmodSync(box.directory, 0o755)
  return box.file('app.js', echo(1, `${WHO}\n${more}`))
}

if (isRoot) {
  test('user: uid, gid and groups are that user, already when the module is evaluated, and there is no way back', async () => {
    await inSandbox(async (box) => {
      const port = portOf(await box.start(program(box, `worker.user = 'nobody'`)))
      const all = `${NOBODY} ${NOBODY} ${NOBODY} ${NOBODY} ${NOBODY}`
      assert.is(await ask(port, 'who'), all)
      assert.is(await ask(port, 'first'), all)
      assert.is(await ask(port, 'back'), 'EPERM')
      assert.match(await ask(port, 'home'), /nonexistent nobody$/)
      assert.is(await ask(port, box.runDir), 'EACCES') // the control socket is out of its reach
      assert.is(statSync(join(box.runDir, 'millrace.log')).uid, 0)
      await box.stop()
    })
  })

  longTest('supplementary groups are those of the user, and none of root', async () => {
    const line =
      readFileSync('/etc/group', 'utf8')
        .split('\n')
        .find((group) => /:[a-z][\w-]*$/.test(group)) ?? ''
    const [, , gid, members] = line.split(':')
    const user = members?.split(',')[0] ?? 'nobody' // on a machine whose groups have no members: only its own
    await inSandbox(async (box) => {
      const port = portOf(await box.start(program(box, `worker.user = '${user}'`)))
      const [uid, , primary, , ...groups] = (await ask(port, 'who')).split(' ')
      assert.not.equal(uid, '0')
      assert.not.ok(groups.includes('0'))
      assert.ok(groups.includes(primary ?? ''))
      if (gid !== undefined) assert.ok(groups.includes(gid), `${user} is in ${gid}, the worker in ${groups}`)
      await box.stop()
    })
  })

  for (const [what, more, args, expected] of [
    ['a group besides the user', `worker.user = 'nobody'; worker.group = 'daemon'`, [], `${NOBODY} ${NOBODY} 1 1`],
    ['a number that has a name: its groups too', `worker.user = '${NOBODY}'`, [], `${NOBODY} ${NOBODY} ${NOBODY}`],
    ['numbers', `worker.user = '4242'; worker.group = '4343'`, [], '4242 4242 4343 4343 4343'],
    ['the command line over the code', `worker.user = 'nobody'`, ['--user', 'daemon'], `${DAEMON} ${DAEMON} 1 1`],
    ['a group alone', `worker.group = 'daemon'`, [], '0 0 1 1'],
  ] as const) {
    caseTest(/^(a group besides|the command line)/.test(what))(`${what}`, async () => {
      await inSandbox(async (box) => {
        const port = portOf(await box.start(program(box, more), ...args))
        assert.match(await ask(port, 'who'), new RegExp(`^${expected}`))
        await box.stop()
      })
    })
  }

  longTest('a number without a name lives in /, and is nobody by name', async () => {
    await inSandbox(async (box) => {
      Object.assign(box.env, { HOME: '/root', USER: 'root' })
      const port = portOf(await box.start(program(box, `worker.user = '4242'; worker.group = '4343'`)))
      assert.is(await ask(port, 'home'), '/ undefined')
      await box.stop()
    })
  })

  test('with --user no line of the program runs as root, at a reload neither', async () => {
    await inSandbox(async (box) => {
      const module = program(box, `console.error('evaluated by ' + process.getuid())`)
      await box.start(module, '--user', 'nobody')
      await box.operate({ command: 'reload' })
      await box.stop()
      const uids = [...box.log().matchAll(/evaluated by (\d+)/g)].map(([, uid]) => Number(uid))
      assert.equal(uids, [NOBODY, NOBODY, NOBODY, NOBODY])
    })
  })

  for (const [what, more] of [
    ['user', `worker.user = 'no-such-user'`],
    ['group', `worker.user = 'nobody'; worker.group = 'no-such-group'`],
    ['primary group', `worker.user = '424242'`],
  ] as const) {
    caseTest(what === 'primary group')(
      `an unknown ${what} ends the start with exit code 6, and nobody runs as root instead`,
      async () => {
        await inSandbox(async (box) => {
          const { code, stderr } = await box.command('start', '-d', program(box, more))
          assert.is(code, 6)
          assert.match(stderr, /there is no .*'(no-such-\w+|424242)'/)
        })
      },
    )
  }

  test('a port below 1024 and a Unix socket are bound by the master, and served by nobody', async () => {
    await inSandbox(async (box) => {
      chmodSync(box.directory, 0o755)
      const socket = join(box.directory, 's.sock')
      const more = `${WHO}; worker.user = 'nobody'
        const other = new Worker('unix://${socket}', { user: 'nobody', group: 'daemon' })
        other.onMessage = (connection) => connection.send(String(process.getuid()) + '\\n')`
      await box.start(box.file('app.js', echo(1, more, 'text://127.0.0.1:1001')))
      assert.match(await ask(1001, 'who'), new RegExp(`^${NOBODY} `))
      assert.is(await ask(socket, 'x'), String(NOBODY))
      const { uid, gid } = statSync(socket)
      assert.equal([uid, gid], [NOBODY, DAEMON])
      await box.stop()
    })
  })

  test('a Unix socket has the owner of who serves it: the new one after a reload or an upgrade, the old one after one that is given up', async () => {
    await inSandbox(async (box) => {
      chmodSync(box.directory, 0o755)
      const shared = join(box.directory, 'shared') // both users may listen there
      mkdirSync(shared)
      chmodSync(shared, 0o777)
      const [declared, inner] = [join(box.directory, 'a.sock'), join(shared, 'b.sock')]
      const as = (user: string, more = '') =>
        box.file(
          'app.js',
          `import { text, Worker } from 'millrace'
           const settings = { protocol: text, onMessage: (connection) => connection.send(String(process.getuid())) }
           const worker = new Worker('unix://${declared}', { ...settings, count: 2, user: '${user}', startTimeoutMs: 1000 })
           worker.onWorkerStart = async () => {
             await new Worker(settings).listen('unix://${inner}')
             ${more}
           }
           Worker.runAll()`,
        )
      const owners = () => [declared, inner].map((path) => statSync(path).uid)
      await box.start(as('nobody'))
      assert.equal(owners(), [NOBODY, NOBODY])
      as('daemon')
      await box.operate({ command: 'reload' })
      assert.equal(owners(), [DAEMON, DAEMON])
      assert.equal([await ask(declared, 'x'), await ask(inner, 'x')], ['1', '1'])
      for (const command of ['reload', 'upgrade']) {
        as('nobody', 'await new Promise(() => {})')
        assert.is((await box.command(command)).code, 7)
        assert.equal(owners(), [DAEMON, DAEMON], command)
        assert.is(await ask(declared, 'x'), '1')
      }
      as('nobody')
      succeeded(await box.command('upgrade'))
      assert.equal(owners(), [NOBODY, NOBODY])
      assert.equal([await ask(declared, 'x'), await ask(inner, 'x')], [String(NOBODY), String(NOBODY)])
      await box.stop()
    })
  })

  test('listen() has the rights of the user: no port and no folder of root, whatever leads there', async () => {
    await inSandbox(async (box) => {
      chmodSync(box.directory, 0o755)
      const [roots, theirs] = ['roots', 'theirs'].map((name) => join(dirname(box.runDir), name)) as [string, string]
      for (const folder of [dirname(roots), roots, theirs]) {
        mkdirSync(folder, { recursive: true })
        chmodSync(folder, 0o755)
      }
      chownSync(theirs, NOBODY, NOBODY)
      symlinkSync(roots, join(theirs, 'link'))
      const stale = await leaveStale(join(roots, 'stale.sock'))
      const listen = `
        worker.user = 'nobody'
        worker.onMessage = async (connection, address) => {
          const inner = new Worker(address)
          inner.onConnect = (connection) => connection.end('here\\n')
          connection.send(await inner.listen().then(() => 'listens', (error) => error.message))
        }`
      const port = portOf(await box.start(box.file('app.js', echo(1, listen))))
      const declare = `: 'nobody' may not bind it with listen(); declare it on a Worker, and the master binds it`
      const lowest = Number(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'latin1'))
      if (lowest > 1002)
        assert.is(await ask(port, 'text://127.0.0.1:1002'), `bind 127.0.0.1:1002: EACCES (permission denied)${declare}`)
      else console.log(`  here ports are for all from ${lowest} on`)
      for (const path of [join(roots, 'a.sock'), join(roots, 'stale.sock')])
        assert.match(await ask(port, `unix://${path}`), /^bind .*: (EACCES|EADDRINUSE) /)
      assert.is(fileId(join(roots, 'stale.sock')), stale)
      const linked = await ask(port, `unix://${theirs}/link/a.sock`)
      assert.match(
        linked,
        /: EACCES .*: 'nobody' may not make it, and root makes nothing in what others can change \(\/.*theirs\)$/,
      )
      assert.not(existsSync(join(roots, 'a.sock')))
      const own = join(theirs, 'own.sock')
      assert.is(await ask(port, `unix://${own}`), 'listens')
      assert.is(statSync(own).uid, NOBODY)
      assert.is(await ask(own, 'x'), 'here')
      await box.stop()
      assert.not(existsSync(own))
    })
  })

  test('restart stops nothing where the user may not make a Unix socket, and root makes none to see that', async () => {
    await inSandbox(async (box) => {
      chmodSync(box.directory, 0o755)
      const before = await box.start(box.file('app.js', echo(1)))
      const theirs = join(box.directory, 'theirs')
      mkdirSync(theirs, { mode: 0o755 })
      chownSync(theirs, DAEMON, DAEMON)
      const code = echo(1, `worker.user = 'nobody'`, `unix://${theirs}/app.sock`)
      const { stderr } = await box.command('restart', '-d', box.file('app.js', code))
      assert.match(stderr, /EACCES.*'nobody' may not make it/)
      assert.is((await box.status()).pid, before.pid)
      await box.stop()
    })
  })

  for (const isCode of [false, true])
    caseTest(!isCode)(
      `files of root in a folder of somebody else are named once${isCode ? ', but not if the code is there, too' : ''}`,
      async () => {
        await inSandbox(async (box) => {
          const folder = join(box.directory, 'daemons')
          mkdirSync(folder)
          chownSync(folder, DAEMON, DAEMON)
          const module = box.file(isCode ? 'daemons/app.js' : 'app.js', echo(1))
          const [log, pid, out] = ['log', 'pid', 'out'].map((name) => join(folder, name)) as [string, string, string]
          await box.start(module, '--log-file', log, '--pid-file', pid, '--stdout-file', out)
          await box.operate({ command: 'reload' })
          await box.stop()
          const told = [
            ...readFileSync(log, 'utf8').matchAll(/ (\S+): root writes this file, and who can change (\S+) /g),
          ]
          const expected = isCode ? [] : [log, out, pid].map((path) => [path, folder])
          assert.equal(
            told.map(([, path, loose]) => [path, loose]),
            expected,
          )
        })
      },
    )

  longTest('a declared socket in a folder of a third user ends the start, which says what to do', async () => {
    await inSandbox(async (box) => {
      const folder = join(box.directory, 'daemons')
      mkdirSync(folder)
      chownSync(folder, DAEMON, DAEMON)
      for (const path of [box.directory, folder]) chmodSync(path, 0o755)
      const module = box.file('app.js', echo(1, `worker.user = 'nobody'`, `unix://${folder}/app.sock`))
      const { code, stderr } = await box.command('start', '-d', module)
      assert.is(code, 5)
      assert.match(
        stderr,
        /EACCES .*: 'nobody' may not make it, and root makes nothing in what others can change \(.*daemons\)/,
      )
      assert.match(stderr, /next: chown the folder to that user/)
    })
  })

  test('as somebody else everything works: sockets of their own, TLS with a key of root, datagrams, probes, logs, reload by watch', async () => {
    const authority = new Authority()
    await inSandbox(async (box) => {
      chmodSync(box.directory, 0o755)
      const { certFile, keyFile } = authority.issue('localhost') // in a folder of root's alone
      const health = join(box.directory, 'health.sock')
      const code = (version: number) => `
        import { Worker } from 'millrace'
        const answer = (connection, line) => connection.send(line + ' ' + process.getuid() + ' ${version}')
        new Worker('text://127.0.0.1:0', { name: 'many', count: 2, reusePort: true, onMessage: answer })
        const ssl = { certFile: '${certFile}', keyFile: '${keyFile}' }
        new Worker('text://127.0.0.1:0', { name: 'safe', transport: 'ssl', ssl, onMessage: answer })
        new Worker('text://127.0.0.1:0', { name: 'datagrams', transport: 'udp', onMessage: answer })
        for (const worker of Worker.getAllWorkers()) worker.user = 'nobody'
        Worker.runAll()`
      const module = box.file('app/app.js', code(1))
      const log = join(box.directory, 'server.log')
      const server = await box.foreground(module, '--watch', '--health', `unix://${health}`, '--log-file', log)
      const [many = 0, safe = 0, datagrams = 0] = (await box.status()).groups.map(({ port }) => port)
      const all = async () => [await ask(many, 'x'), await askSafely(safe, 'x'), await askByDatagram(datagrams, 'x')]
      const answers = (version: number) => Array(3).fill(`x ${NOBODY} ${version}`)
      assert.equal(await all(), answers(1))
      box.file('app/app.js', code(2))
      await until(() => /reload: done/.test(readFileSync(log, 'utf8')), 20_000)
      assert.equal(await all(), answers(2))
      assert.equal([statSync(health).uid, statSync(log).uid], [0, 0])
      await box.stop()
      await server.ended
    }).finally(() => authority.remove())
  })

  longTest('a server that nobody starts works, and cannot become somebody else', async () => {
    await inSandbox(async (box) => {
      const home = join(box.directory, 'home')
      mkdirSync(home)
      chownSync(home, NOBODY, NOBODY)
      const module = program(box)
      const env = { ...box.env, MILLRACE_RUN_DIR: join(home, 'run') }
      const run = (...args: string[]) =>
        box.spawn(process.execPath, [startFile, ...args], { env, uid: NOBODY, gid: NOBODY }).ended
      succeeded(await run('start', '-d', module))
      const port = portOf(JSON.parse((await run('status', '--json')).stdout))
      assert.match(await ask(port, 'who'), new RegExp(`^${NOBODY} `))
      succeeded(await run('stop'))
      program(box, `worker.user = 'daemon'`)
      const { code, stderr } = await run('start', '-d', module)
      assert.is(code, 6)
      assert.match(stderr, /to run as daemon the server must be started by root/)
      program(box, `worker.user = 'nobody'`) // what it is already
      succeeded(await run('start', '-d', module))
      succeeded(await run('stop'))
    })
  })

  longTest('a number that has no name may say what it is already', async () => {
    await inSandbox(async (box) => {
      const env = { ...box.env, MILLRACE_RUN_DIR: join(box.directory, 'none') }
      const module = program(box, `worker.user = '424242'`)
      const args = [startFile, 'check', module]
      succeeded(await box.spawn(process.execPath, args, { env, uid: 424_242, gid: 424_242 }).ended)
    })
  })

  longTest('what is in the way of root is named: a container may withhold the right to change', async () => {
    await inSandbox(async (box) => {
      const without = ['--bounding-set=-setuid', '--inh-caps=-setuid', process.execPath, startFile, 'check']
      const { code, stderr } = await box.spawn('setpriv', [...without, program(box, `worker.user = 'nobody'`)]).ended
      assert.is(code, 6)
      assert.match(stderr, /root may not become user 'nobody' here: EPERM/)
    })
  })
} else {
  test('somebody else cannot be assumed without root', async () => {
    await inSandbox(async (box) => {
      const { code, stderr } = await box.command('start', '-d', program(box, `worker.user = 'daemon'`))
      assert.is(code, 6)
      assert.match(stderr, /must be started by root/)
    })
  })
}

test.run()
