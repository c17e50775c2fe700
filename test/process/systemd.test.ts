// A master under systemd: what it tells of itself, the watchdog, and the sockets that it is started with. A socat stands for
// the service manager's end; sockets come from systemd's own tool.

import { spawnSync } from 'node:child_process'
import dgram from 'node:dgram'
import { chmodSync, copyFileSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { tellService } from '../../src/process/master/service.ts'
import { reload } from '../support/reload.ts'
import { ask, echo, freePort, inSandbox, portOf, startFile } from '../support/server.ts'
import { activated, endManager, manager } from '../support/systemd.ts'
import { until } from '../support/until.ts'
import { root } from '../tooling/support.ts'

if (addon().sys !== null) {
  test('a service manager that does not read for a while is told all of it, in order', async () => {
    await inSandbox(async (box) => {
      const systemd = await manager(box)
      const before = process.env.NOTIFY_SOCKET
      process.env.NOTIFY_SOCKET = box.env.NOTIFY_SOCKET
      try {
        systemd.process.kill('SIGSTOP')
        const lines = Array.from({ length: 40 }, (_, n) => `X_LINE=${n}`) // a queue of the kernel's has ten
        for (const line of lines) tellService(line)
        systemd.process.kill('SIGCONT')
        await systemd.says(/X_LINE=39\n/)
        assert.equal(systemd.stdout.trim().split('\n'), lines)
      } finally {
        if (before === undefined) delete process.env.NOTIFY_SOCKET
        else process.env.NOTIFY_SOCKET = before
        await endManager(systemd)
      }
    })
  })

  test('systemd is told of ready, reloading and stopping, how long that may take, and how it goes', async () => {
    await inSandbox(async (box) => {
      const systemd = await manager(box)
      const more = `worker.onMessage = (connection) => connection.send(Object.keys(process.env).filter((name) =>
        /^(NOTIFY|WATCHDOG|LISTEN)_/.test(name)).join() + '.')
        if (process.env.NOTIFY_SOCKET) throw new Error('the describe process has it')`
      Object.assign(box.env, { WATCHDOG_USEC: '60000', LISTEN_PID: '1', LISTEN_FDS: '1' })
      const server = await box.foreground(box.file('app.js', echo(2, more)))
      await systemd.says(/^STATUS=starting, 0 of 2 processes ready\n/m)
      await systemd.says(new RegExp(`^READY=1\nMAINPID=${server.process.pid}\nSTATUS=2 of 2 processes ready\n`, 'm'))
      assert.match(systemd.stdout, /^EXTEND_TIMEOUT_USEC=15000000\n/)
      assert.is(await ask(portOf(await box.status()), 'x'), '.') // what is the master's is no worker's
      await until(() => (systemd.stdout.match(/^WATCHDOG=1$/gm) ?? []).length > 5)
      await reload(box)
      await systemd.says(/^RELOADING=1\nMONOTONIC_USEC=\d+\n(?:.*\n)*READY=1\n/m)
      server.process.kill('SIGTERM') // under a service manager it means: lose nothing
      await server.ended
      await systemd.says(/^STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\n/m)
      await systemd.says(/^STATUS=stopping, 0 processes left\n/m)
      await endManager(systemd)
    })
  })

  test('a process that waits for its next start is in the status line; pings for another process are not sent', async () => {
    await inSandbox(async (box) => {
      const systemd = await manager(box)
      Object.assign(box.env, { WATCHDOG_USEC: '10000', WATCHDOG_PID: '1' })
      const more = `import { existsSync } from 'node:fs'
        worker.onMessage = () => process.exit(3)
        worker.onWorkerStart = () => { if (existsSync('${box.directory}/broken')) process.exit(3) }`
      const server = await box.foreground(box.file('app.js', echo(1, more)))
      box.file('broken', '')
      await ask(portOf(await box.status()), 'die').catch(() => undefined)
      await systemd.says(/^STATUS=0 of 1 processes ready, echo:0 exit 3$/m)
      await box.stop()
      await server.ended
      assert.not.match(systemd.stdout, /WATCHDOG/)
      await endManager(systemd)
    })
  })

  test('sockets of systemd serve the Workers at their addresses, stay over reloads, and those of nobody are named', async () => {
    await inSandbox(async (box) => {
      const first = await freePort(3)
      const path = join(box.directory, 'app.sock')
      const isRoot = process.getuid?.() === 0
      chmodSync(box.directory, 0o755)
      const declared = (third: boolean) => `
        const any = new Worker('text://0.0.0.0:${first + 1}', { name: 'any', count: 2, reusePort: true })
        const local = new Worker('unix://${path}', { name: 'local'${isRoot ? `, user: 'nobody'` : ''} })
        const own = new Worker('text://127.0.0.1:0', { name: 'own' })
        const all = [any, local, own]
        ${third ? `all.push(new Worker('text://localhost:${first + 2}', { name: 'third' }))` : ''}
        for (const one of all) one.onMessage = (connection, line) => connection.send(one.name + line)`
      const module = box.file('app.js', echo(1, declared(false), `text://127.0.0.1:${first}`))
      const at = [`127.0.0.1:${first}`, `[::]:${first + 1}`, path, `127.0.0.1:${first + 2}`]
      const sockets = [...at.flatMap((address) => ['-l', address]), '--fdname=web:any:local:spare']
      const server = await activated(box, sockets, [startFile, 'start', module], () => ask(first, 'early'))
      const unused = `no Worker has the address of these sockets of the service manager: 127.0.0.1:${first + 2} (spare)`
      assert.ok(server.stderr.includes(unused), server.stderr)
      assert.match(server.stderr, /any: no reusePort on a socket of the service manager; its processes share it/)
      assert.is(await ask(first + 1, '1'), 'any1')
      assert.is(await ask(path, '2'), 'local2')
      assert.is(statSync(path).uid, process.getuid?.()) // systemd's SocketUser= decides, not we
      assert.is(await ask((await box.status()).groups[3]?.port ?? 0, '3'), 'own3')

      for (const isThird of [true, false, true]) {
        box.file('app.js', echo(1, declared(isThird), `text://127.0.0.1:${first}`))
        assert.is((await reload(box)).reason, '')
        if (isThird) assert.is(await ask(first + 2, '4'), 'third4')
      }
      assert.is(server.stderr.split(unused).length - 1, 2)
      await box.stop()
      assert.is((await server.ended).code, 0)
      assert.ok(existsSync(path)) // it is systemd's
    })
  })

  test('a datagram socket of systemd is served, and the file itself may be what it starts', async () => {
    await inSandbox(async (box) => {
      const port = await freePort()
      const code = `import { Worker } from 'millrace'
        const worker = new Worker('udp://127.0.0.1:${port}', { count: 2 })
        worker.onMessage = (connection, data) => connection.send('got ' + data)
        Worker.runAll()`
      const client = dgram.createSocket('udp4')
      const answer = new Promise<string>((resolve) => client.once('message', (data) => resolve(String(data))))
      try {
        const send = async () => {
          client.send('hello', port, '127.0.0.1')
          assert.is(await answer, 'got hello')
        }
        const args = ['-d', '-l', `127.0.0.1:${port}`]
        const server = await activated(box, args, [box.file('app.js', code), 'start'], send)
        await box.command('stop', join(box.directory, 'app.js'))
        await server.ended
      } finally {
        client.close()
      }
    })
  })

  test('what is no socket, or does not listen, is said; what was meant for another process is left alone', async () => {
    await inSandbox(async (box) => {
      const script = `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=odd exec "$@" 3</dev/null`
      const start = [process.execPath, startFile, 'start', box.file('app.js', echo())]
      const server = box.spawn('sh', ['-c', script, 'sh', ...start])
      await server.says(/socket odd of the service manager \(descriptor 3\) cannot be used: .*ENOTSOCK/)
      await server.says(/Press Ctrl\+C/)
      await box.stop()
      await server.ended
      Object.assign(box.env, { LISTEN_PID: '1', LISTEN_FDS: '1' })
      const other = await box.foreground(box.file('app.js', echo()))
      await box.stop()
      assert.not.match((await other.ended).stderr, /service manager/)
    })
  })
}

test('without the addon sockets are not taken, which is said', async () => {
  await inSandbox(async (box) => {
    box.env.MILLRACE_ADDON = 'none'
    const port = await freePort()
    const start = [startFile, 'start', box.file('app.js', echo())]
    const server = await activated(
      box,
      ['-l', `127.0.0.1:${port}`],
      start,
      async () => void ask(port, 'x').catch(() => ''),
    )
    assert.match(server.stderr, /without the addon \(.*\) sockets of the service manager are not taken/)
    await box.stop()
    await server.ended
  })
})

test('the units among the examples are such that systemd finds nothing wrong with them', async () => {
  await inSandbox((box) => {
    const units = join(root, 'examples/systemd')
    const service = readFileSync(join(units, 'app.service'), 'utf8')
    assert.match(service, /ExecStart=\/usr\/bin\/node node_modules\/millrace\/dist\/start\.js start dist\/app\.js/)
    const paths = ['app.service', 'app.socket'].map((name) => join(box.directory, name))
    writeFileSync(paths[0] as string, service.replaceAll('/usr/bin/node', process.execPath))
    copyFileSync(join(units, 'app.socket'), paths[1] as string)
    const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', ...paths], { encoding: 'utf8' })
    assert.equal([status, stdout, stderr], [0, '', ''])
  })
})

test.run()
