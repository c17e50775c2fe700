// TLS as a server of many processes has it: certificates that only root may read, tickets that every process takes,
// certificates that change at a reload, handshakes that fail. openssl's client is the stranger.

import { spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ROTATE_TICKETS_MS } from '../../src/process/master/tickets.ts'
import { Authority } from '../support/certificates.ts'
import { caseTest, longTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import { inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until, within } from '../support/until.ts'
import { asRoot } from '../support/where.ts'

const authority = new Authority()
const strangers = new Authority()
test.after(() => authority.remove())
test.after(() => strangers.remove())
const localhost = authority.issue('localhost')
const other = authority.issue('other.example', '*.wild.example')
const ca = readFileSync(authority.caFile)

/** An echo server under TLS that says what was agreed on. */
function program(ssl: object, more = ''): string {
  return `
    import { Worker } from 'millrace'
    const worker = new Worker('text://127.0.0.1:0', { name: 'tls', transport: 'ssl', ssl: ${JSON.stringify(ssl)} })
    worker.onMessage = (connection, line) => {
      const { version, alpn, serverName, isResumed, isAuthorized, authorizationError, peerCertificate } = connection.tls
      const subject = peerCertificate === null ? null : peerCertificate.subject
      connection.send(JSON.stringify({ line, version, alpn, serverName, isResumed, isAuthorized, authorizationError, subject, pid: process.pid }))
    }
    ${more}
    Worker.runAll()`
}

interface Said {
  line: string
  version: string
  alpn: string
  serverName: string
  isResumed: boolean
  isAuthorized: boolean
  authorizationError: string
  subject: string | null
  pid: number
}

/** One connection, one line; rejects with the client's error. */
function talk(
  port: number,
  options: tls.ConnectionOptions = {},
): Promise<Said & { session: Buffer | undefined; cn: string }> {
  const talking = new Promise<Said & { session: Buffer | undefined; cn: string }>((resolve, reject) => {
    const socket = tls.connect({ port, host: '127.0.0.1', servername: 'localhost', ca, ...options })
    let session: Buffer | undefined
    let said = ''
    socket.on('session', (ticket) => {
      session = ticket
      socket.write('hello\n') // TLS 1.3 sends it after the handshake
    })
    socket.on('secureConnect', () => socket.write('hello\n'))
    socket.setEncoding('utf8').on('data', (text) => {
      said += text
      const [line = '', ...rest] = said.split('\n')
      if (rest.length === 0 || (session === undefined && options.session === undefined)) return
      const cn = String(socket.getPeerCertificate().subject?.CN ?? '')
      socket.destroy()
      resolve({ ...JSON.parse(line), session, cn })
    })
    socket.on('error', reject).on('close', () => reject(new Error('closed')))
  })
  return within(10_000, talking)
}

async function failures(box: Sandbox): Promise<number> {
  return (await box.status()).totals.handshakeErrors
}

test('a protocol under TLS: version, cipher and names are known, and openssl agrees', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program({ ...localhost, ALPNProtocols: ['text/1'] }))))
    const said = await talk(port, { ALPNProtocols: ['text/1', 'other'] })
    assert.equal([said.version, said.alpn, said.serverName], ['TLSv1.3', 'text/1', 'localhost'])
    assert.equal([said.isAuthorized, said.authorizationError, said.subject], [false, '', null])
    const openssl = box.spawn(
      'openssl',
      ['s_client', '-connect', `127.0.0.1:${port}`, '-CAfile', authority.caFile, '-tls1_2', '-quiet'],
      {
        stdio: ['pipe', 'pipe', 'pipe'],
      },
    )
    openssl.process.stdin?.write('from openssl\n')
    await until(() => openssl.stdout.includes('TLSv1.2'))
    const listed = JSON.parse(succeeded(await box.command('connections', '--json')).stdout)
    assert.is(listed.connections[0].transport, 'ssl')
    openssl.process.stdin?.end()
    openssl.process.kill()
    await openssl.ended
    await box.stop()
  })
})

test('however the server closes, a client hears that nothing was cut off (close_notify, RFC 8446 section 6.1)', async () => {
  const closes = `worker.onMessage = (connection, how) => {
    connection[how]('bye') // after send, the idle time-out closes
  }
  worker.idleTimeoutMs = 2000`
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program(localhost, closes))))
    const ways = ['-tls1_2', '-tls1_3'].flatMap((version) => ['close', 'end', 'send'].map((how) => ({ version, how })))
    const closing = ways.map(async ({ version, how }) => {
      const args = ['s_client', '-connect', `127.0.0.1:${port}`, '-CAfile', authority.caFile, version, '-quiet']
      const openssl = box.spawn('openssl', args, { stdio: ['pipe', 'pipe', 'pipe'] })
      openssl.process.stdin?.write(`${how}\n`)
      await openssl.ended
      assert.equal(openssl.stdout, 'bye\n')
      assert.not.match(openssl.stderr, /unexpected eof/, `${version} ${how}`)
    })
    await Promise.all(closing)
    await box.stop()
  })
})

test('below TLS 1.2, without a protocol in common, or in the clear: that handshake fails, is counted and logged', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program({ ...localhost, ALPNProtocols: ['text/1'] }))))
    const old = spawnSync('openssl', [
      's_client',
      '-connect',
      `127.0.0.1:${port}`,
      '-tls1_1',
      '-cipher',
      'DEFAULT@SECLEVEL=0',
    ])
    assert.is.not(old.status, 0)
    await until(async () => (await failures(box)) === 1)
    const alpn = await talk(port, { ALPNProtocols: ['h2'] }).catch(({ code }) => code)
    assert.match(alpn, /ALERT_NO_APPLICATION_PROTOCOL/)
    const cipher = await talk(port, { ciphers: 'ECDHE-RSA-AES128-GCM-SHA256', maxVersion: 'TLSv1.2' }).catch(
      ({ code }) => code,
    )
    assert.match(cipher, /HANDSHAKE_FAILURE/)
    net
      .connect(port, '127.0.0.1')
      .on('error', () => undefined)
      .end('GET / HTTP/1.1\r\n\r\n')
    net
      .connect(port, '127.0.0.1')
      .on('error', () => undefined)
      .end() // a scanner
    await until(async () => (await failures(box)) === 5)
    assert.match(
      box.log(),
      /TLS handshake with 127\.0\.0\.1:\d+: handshake 127\.0\.0\.1: ERR_SSL_\w+ \(unsupported protocol\)/,
    )
    assert.is(workersOf(await box.status())[0]?.work, '')
    assert.is((await talk(port, { ALPNProtocols: ['text/1'] })).alpn, 'text/1')
    await box.stop()
  })
})

test('a client that does not shake hands is let go in time', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program({ ...localhost, handshakeTimeoutMs: 100 }))))
    const silent = net.connect(port, '127.0.0.1').on('error', () => undefined)
    await until(async () => (await failures(box)) === 1)
    await until(() => silent.destroyed || silent.readableEnded || silent.closed || !silent.readable)
    silent.destroy()
    assert.match(box.log(), /ERR_TLS_HANDSHAKE_TIMEOUT/)
    await box.stop()
  })
})

test('an SNICallback that gives options where a context is due fails those handshakes, not the process', async () => {
  await inSandbox(async (box) => {
    const more = `worker.ssl.SNICallback = (name, done) => done(null, name === 'localhost' ? undefined : {})`
    const port = portOf(await box.start(box.file('app.js', program({ ...localhost }, more))))
    const { pid } = await talk(port)
    const refused = await talk(port, { servername: 'other.example' }).catch((error: Error) => error)
    assert.ok(refused instanceof Error)
    await until(async () => (await failures(box)) === 1)
    assert.is((await talk(port)).pid, pid)
    assert.match(box.log(), /TLS handshake with 127\.0\.0\.1:\d+: .*\(Invalid SNI context\)/)
    await box.stop()
  })
})

longTest('SNI: each name has its certificate, wildcards too', async () => {
  await inSandbox(async (box) => {
    const sni = { 'other.example': other, '*.wild.example': other }
    const port = portOf(await box.start(box.file('app.js', program({ ...localhost, sni }))))
    for (const [servername, cn] of [
      ['localhost', 'localhost'],
      ['other.example', 'other.example'],
      ['a.wild.example', 'other.example'],
    ] as const)
      assert.is((await talk(port, { servername })).cn, cn)
    await box.stop()
  })
})

test('client certificates: asked for and required, or asked for and told', async () => {
  await inSandbox(async (box) => {
    const client = authority.issue('alice')
    const shown = { cert: readFileSync(client.certFile), key: readFileSync(client.keyFile) }
    const asking = { ...localhost, requestCert: true, caFile: authority.caFile }
    let port = portOf(await box.start(box.file('app.js', program(asking))))
    const said = await talk(port, shown)
    assert.equal([said.isAuthorized, said.subject], [true, 'CN=alice'])
    await talk(port).then(
      () => assert.unreachable(),
      (error) => assert.match(error.message, /certificate required|closed/i),
    )
    await until(async () => (await failures(box)) === 1)
    const stranger = strangers.issue('mallory')
    const refused = talk(port, { cert: readFileSync(stranger.certFile), key: readFileSync(stranger.keyFile) })
    assert.ok((await refused.catch((error: Error) => error)) instanceof Error)
    await until(() => /UNABLE_TO_VERIFY_LEAF_SIGNATURE \(the client's certificate was refused\)/.test(box.log()))
    box.file('app.js', program({ ...asking, rejectUnauthorized: false }))
    await reload(box)
    port = portOf(await box.status())
    assert.is((await talk(port)).isAuthorized, false)
    assert.is((await talk(port, shown)).isAuthorized, true)
    await box.stop()
  })
})

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  caseTest(version === 'TLSv1.3')(`a session of ${version} goes on at any process, and after a reload`, async () => {
    await inSandbox(async (box) => {
      const port = portOf(await box.start(box.file('app.js', program(localhost, 'worker.count = 2'))))
      const limits = { minVersion: version, maxVersion: version }
      const pids = new Set<number>()
      for (let n = 0; n < 8; n++) {
        const { session, pid } = await talk(port, limits)
        const said = await talk(port, { ...limits, session })
        assert.ok(said.isResumed, `made at ${pid}, taken to ${said.pid}`)
        pids.add(pid).add(said.pid)
      }
      const { session } = await talk(port, limits)
      await reload(box)
      const after = await talk(port, { ...limits, session })
      assert.ok(after.isResumed)
      assert.not(pids.has(after.pid))
      await box.stop()
    })
  })
}

longTest(
  'new ticket keys reach every process, also one that comes later; old tickets are worth nothing then',
  async () => {
    await inSandbox(async (box) => {
      // What the master does every 12 hours it does at a signal.
      const clock = `const { setInterval } = globalThis
      globalThis.setInterval = (call, ms, ...more) => {
        if (ms === ${ROTATE_TICKETS_MS}) process.on('SIGPWR', call)
        return setInterval(call, ms, ...more)
      }`
      box.env.NODE_OPTIONS = `--import=${box.file('clock.mjs', clock)}`
      const status = await box.start(box.file('app.js', program(localhost, 'worker.count = 3')))
      const port = portOf(status)
      const { session: old } = await talk(port)
      assert.ok((await talk(port, { session: old })).isResumed)
      process.kill(status.pid, 'SIGPWR')
      await until(async () => !(await talk(port, { session: old })).isResumed)
      const [{ pid: crashed = 0 } = {}] = workersOf(status)
      process.kill(crashed, 'SIGKILL')
      await until(async () => {
        const workers = workersOf(await box.status()) // who answers has taken what came before
        return workers.every(({ pid, state }) => state === 'ready' && pid !== crashed)
      }, 20_000)
      const pids = new Set<number>()
      const { session } = await talk(port)
      await until(async () => {
        const said = await talk(port, { session })
        assert.ok(said.isResumed, `not at ${said.pid}`)
        assert.not((await talk(port, { session: old })).isResumed, 'an old ticket')
        return pids.add(said.pid).size >= 3 && !pids.has(crashed)
      }, 20_000)
      await box.stop()
    })
  },
)

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  const limits = { minVersion: version, maxVersion: version }
  longTest(
    `${version}: who is asked for a certificate since a reload does not go on with a session from before`,
    async () => {
      await inSandbox(async (box) => {
        const port = portOf(await box.start(box.file('app.js', program(localhost))))
        const { session } = await talk(port, limits)
        box.file(
          'app.js',
          program({ ...localhost, requestCert: true, rejectUnauthorized: false, caFile: authority.caFile }),
        )
        await reload(box)
        assert.is((await talk(port, { ...limits, session })).isResumed, false)
        await box.stop()
      })
    },
  )

  longTest(
    `${version}: a client that a reload revokes does not go on with a session from before, others do`,
    async () => {
      await inSandbox(async (box) => {
        const [alice, bob] = [authority.issue('alice'), authority.issue('bob')]
        const shown = ({ certFile, keyFile }: typeof alice) => ({
          cert: readFileSync(certFile),
          key: readFileSync(keyFile),
        })
        const asking = { ...localhost, requestCert: true, caFile: authority.caFile }
        const port = portOf(await box.start(box.file('app.js', program(asking))))
        const { session } = await talk(port, { ...limits, ...shown(alice) })
        await reload(box)
        assert.is((await talk(port, { ...limits, session })).subject, 'CN=alice', 'nothing has changed')
        box.file('app.js', program({ ...asking, crl: authority.revoke(alice) }))
        await reload(box)
        for (const how of [{ session }, shown(alice)])
          assert.ok((await talk(port, { ...limits, ...how }).catch((error: Error) => error)) instanceof Error)
        await until(() => /CERT_REVOKED \(the client's certificate was refused\)/.test(box.log()))
        assert.is((await talk(port, { ...limits, ...shown(bob) })).isAuthorized, true)
        await box.stop()
      })
    },
  )
}

test('a certificate that changes is served after a reload, and who is connected stays', async () => {
  await inSandbox(async (box) => {
    const files = { certFile: join(box.directory, 'app.crt'), keyFile: join(box.directory, 'app.key') }
    const install = ({ certFile, keyFile }: typeof files) => {
      copyFileSync(certFile, files.certFile)
      copyFileSync(keyFile, files.keyFile)
    }
    install(localhost)
    const port = portOf(await box.start(box.file('app.js', program(files))))
    const connected = tls.connect({ port, host: '127.0.0.1', servername: 'localhost', ca })
    let answers = ''
    connected.setEncoding('utf8').on('data', (text) => {
      answers += text
    })
    connected.write('one\n')
    await until(() => answers.includes('"one"'))
    writeFileSync(files.certFile, 'broken')
    const broken = await box.command('reload')
    assert.is(broken.code, 6)
    assert.match(broken.stderr, /worker 'tls': ssl cannot be used: certFile \S+ is no certificate in PEM/)
    connected.write('two\n')
    await until(() => answers.includes('"two"'))
    install(other)
    const reloading = box.begin('reload')
    await until(async () => {
      connected.write('still here\n') // who says nothing for a second has no more to say
      return (await talk(port, { servername: 'other.example' }).catch(() => null))?.cn === 'other.example'
    })
    connected.write('three\n')
    await until(() => answers.includes('"three"'))
    await reloading.ended
    connected.destroy()
    await box.stop()
  })
})

asRoot('a key that only root may read serves a worker that is nobody', async () => {
  await inSandbox(async (box) => {
    const keyFile = join(box.directory, 'root.key')
    copyFileSync(localhost.keyFile, keyFile)
    chmodSync(keyFile, 0o600)
    chmodSync(box.directory, 0o755)
    const more = `worker.user = 'nobody'`
    const port = portOf(await box.start(box.file('app.js', program({ certFile: localhost.certFile, keyFile }, more))))
    const [{ pid = 0 } = {}] = workersOf(await box.status())
    assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), /Uid:\s+65534/)
    assert.is((await talk(port)).cn, 'localhost')
    for (const args of [
      ['status', '--json'],
      ['check', '--json', join(box.directory, 'app.js')],
    ])
      assert.not.match((await box.command(...args)).stdout, /PRIVATE|LS0tLS1/)
    await box.stop()
  })
})

for (const [what, ssl, says] of [
  ['no certificate', {}, /worker 'tls': TLS needs a certificate and its key: ssl: \{ certFile/],
  [
    'a file that is not there',
    { ...localhost, keyFile: '/nowhere.key' },
    /ssl: keyFile \/nowhere\.key cannot be read: ENOENT/,
  ],
  [
    'a key of another certificate',
    { ...localhost, keyFile: other.keyFile },
    /worker 'tls': ssl cannot be used: .*mismatch/,
  ],
  [
    'a certificate for a key',
    { ...localhost, keyFile: localhost.certFile },
    /worker 'tls': ssl cannot be used: keyFile \/\S+\.crt is no private key in PEM/,
  ],
  [
    'a key for a certificate',
    { ...localhost, certFile: localhost.keyFile },
    /worker 'tls': ssl cannot be used: certFile \/\S+\.key is no certificate in PEM/,
  ],
  ['a cipher that is none', { ...localhost, ciphers: 'NOTHING' }, /worker 'tls': ssl cannot be used: /],
  [
    'a broken one by name',
    { ...localhost, sni: { a: { cert: 'x', key: 'y' } } },
    /ssl\.sni\['a'\] cannot be used: key is no private key in PEM/,
  ],
] as const) {
  caseTest(what === 'no certificate' || what === 'a key of another certificate')(
    `TLS with ${what} is refused with the reason`,
    async () => {
      await inSandbox(async (box) => {
        const { code, stderr } = await box.command('start', '-d', box.file('app.js', program(ssl)))
        assert.match(stderr, says)
        assert.is(code, 6)
      })
    },
  )
}

test('STARTTLS: the same connection goes on under TLS; what was put in before counts for nothing', async () => {
  await inSandbox(async (box) => {
    const text = program(localhost)
      .replace(`transport: 'ssl', `, '')
      .replace(
        'worker.onMessage = (connection, line) => {',
        `worker.onMessage = async (connection, line) => {
        if (line === 'STARTTLS') { connection.send('go'); await connection.startTls(); return }
        if (connection.tls === null) return connection.send('clear ' + line)`,
      )
    const port = portOf(await box.start(box.file('app.js', text)))
    const plain = net.connect(port, '127.0.0.1')
    let received = ''
    const listen = (bytes: Buffer) => {
      received += bytes
    }
    plain.on('data', listen).write('one\n')
    await until(() => received === 'clear one\n')
    plain.write('STARTTLS\n')
    await until(() => received.endsWith('go\n'))
    plain.off('data', listen)
    const said = await talk(0, { socket: plain })
    assert.is(said.version, 'TLSv1.3')
    const injecting = net.connect(port, '127.0.0.1')
    injecting.write('STARTTLS\ninjected\n')
    await new Promise((resolve) => injecting.once('data', resolve)) // 'go'
    assert.is((await talk(0, { socket: injecting })).line, 'hello')
    await box.stop()
  })
})

/** A certificate among so much text that its file has this size: what thousands of names with a chain each come to. */
function padded(box: Sandbox, megabytes: number): { certFile: string; keyFile: string } {
  const text = `${'certificates of many names '.repeat(40)}\n`.repeat(megabytes * 970)
  return { ...localhost, certFile: box.file('many.crt', `${text}${readFileSync(localhost.certFile, 'utf8')}`) }
}

test('certificates of many megabytes are declared, served and reloaded', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', program(padded(box, 6)))
    succeeded(await box.command('check', module))
    const port = portOf(await box.start(module))
    const before = await talk(port)
    await reload(box)
    assert.is.not((await talk(port)).pid, before.pid)
    await box.stop()
  })
})

longTest('a program that declares more than can be read is told so', async () => {
  await inSandbox(async (box) => {
    const { code, stderr } = await box.command('check', box.file('app.js', program(padded(box, 52))))
    assert.is(code, 6)
    assert.match(stderr, /app\.js declares more than 64 MiB, its certificates included/)
  })
})

test.run()
