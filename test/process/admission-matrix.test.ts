// Limits hold whatever the socket is: by both engines, over TCP, TLS and a Unix socket, behind a proxy, at an address that a
// process asks for itself, at a socket for each process (`reusePort`), and at that of a sibling that is not there.

import { readFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { Authority } from '../support/certificates.ts'
import { caseTest } from '../support/length.ts'
import { freePort, inSandbox, type Sandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

const authority = new Authority()
test.after(() => authority.remove())
const localhost = authority.issue('localhost')
const ca = readFileSync(authority.caFile)
const HEADER = 'PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n'
/** Of a process. */
const MOST = 4
/** Connections per second; a tenth of it may come at once. */
const RATE = 20
const ENGINES = nativeEngine() === null ? ['node'] : ['native', 'node']

interface Place {
  /** A port or a path. */
  readonly at: number | string
  readonly isSecure?: boolean
  readonly isProxied?: boolean
  readonly isInner?: boolean
  /** Two processes with a socket each. */
  readonly isShared?: boolean
}

type Places = Record<string, Place>

async function everyPlace(box: Sandbox): Promise<Places> {
  const port = await freePort(9)
  const shared: Places = {
    shared: { at: port + 5, isShared: true },
    sharedTls: { at: port + 6, isShared: true, isSecure: true },
    sharedProxied: { at: port + 7, isShared: true, isProxied: true },
    sharedTlsProxied: { at: port + 8, isShared: true, isSecure: true, isProxied: true },
  }
  return {
    tcp: { at: port },
    tls: { at: port + 1, isSecure: true },
    unix: { at: join(box.directory, 'a.sock') },
    unixTls: { at: join(box.directory, 'b.sock'), isSecure: true },
    proxied: { at: port + 2, isProxied: true },
    tlsProxied: { at: port + 3, isSecure: true, isProxied: true },
    inner: { at: port + 4, isInner: true },
    innerUnix: { at: join(box.directory, 'c.sock'), isInner: true },
    ...(addon().sys === null ? {} : shared),
  }
}

/** Each worker answers with its pid and how many connections it has had at most at a time. The second one of a port fails when it comes again. */
function program(places: Places, limit: object): string {
  return `
    import { text, Worker } from 'millrace'
    for (const [name, { at, isSecure, isProxied, isInner, isShared }] of Object.entries(${JSON.stringify(places)})) {
      let most = 0
      const settings = {
        ...${JSON.stringify(limit)}, protocol: text,
        onConnect: ({ worker }) => { most = Math.max(most, worker.connections.size) },
        onMessage: (connection) => connection.send(process.pid + ' ' + most),
      }
      if (isSecure) Object.assign(settings, { transport: 'ssl', ssl: ${JSON.stringify(localhost)} })
      if (isProxied) settings.proxyProtocol = { from: ['127.0.0.1'] }
      const listen = typeof at === 'number' ? 'tcp://127.0.0.1:' + at : 'unix://' + at
      const outer = isInner ? new Worker({ name }) : new Worker(listen, { ...settings, name })
      if (isShared) Object.assign(outer, { count: 2, reusePort: true })
      outer.onWorkerStart = () => {
        if (isInner) new Worker(listen, settings).listen()
        if (outer.id === 1 && outer.incarnation > 1) throw new Error('planted')
      }
    }
    Worker.runAll()`
}

/** A client that sends a line at once. */
class Guest {
  readonly #raw: net.Socket
  #said = ''

  constructor({ at, isSecure, isProxied }: Place) {
    this.#raw = typeof at === 'number' ? net.connect(at, '127.0.0.1') : net.connect(at)
    if (isProxied) this.#raw.write(HEADER)
    const socket = isSecure ? tls.connect({ socket: this.#raw, servername: 'localhost', ca }) : this.#raw
    socket.write('x\n')
    socket.on('error', (error) => this.#hear(`error ${error.message}\n`))
    socket.on('data', (bytes) => this.#hear(String(bytes)))
  }

  #hear(text: string): void {
    this.#said += text
  }

  get isConnected(): boolean {
    return !this.#raw.connecting
  }

  get answer(): { pid: number; most: number } | null {
    if (!this.#said.endsWith('\n')) return null
    assert.match(this.#said, /^\d+ \d+\n$/)
    const [pid = 0, most = 0] = this.#said.split(' ').map(Number)
    return { pid, most }
  }

  close(): void {
    this.#raw.destroy()
  }
}

/** Guests, of whom at first nobody goes before MOST have been answered. Their answers. */
async function visit(place: Place, count: number, whenConnected?: () => unknown) {
  const guests = Array.from({ length: count }, () => new Guest(place))
  await until(() => guests.every(({ isConnected }) => isConnected))
  await whenConnected?.()
  await until(() => guests.filter(({ answer }) => answer !== null).length >= MOST)
  return Promise.all(
    guests.map(async (guest) => {
      const answer = await until(() => guest.answer, 30_000)
      guest.close()
      return answer
    }),
  )
}

/** The pid of the second process of a port, which is stopped until somebody ends it: what the kernel gives it waits. */
async function stopSecond(box: Sandbox, name: string): Promise<number> {
  const { groups } = await box.status()
  const pid = groups.find((group) => group.name === name)?.workers[1]?.pid ?? 0
  process.kill(pid, 'SIGSTOP')
  return pid
}

for (const [at, engine] of ENGINES.entries()) {
  const caseOf = caseTest(at === 0)
  caseOf(`maxConnections, ${engine}: no process has more, everybody is served`, async () => {
    await inSandbox(async (box) => {
      const places = await everyPlace(box)
      await box.start(box.file('app.js', program(places, { maxConnections: MOST })), '--engine', engine)
      await Promise.all(
        Object.entries(places).map(async ([name, place]) => {
          const most = (await visit(place, 3 * MOST)).map((answer) => answer.most)
          assert.ok(Math.max(...most) <= MOST, `${name}: ${most}`)
          if (!place.isShared) assert.is(Math.max(...most), MOST, name)
        }),
      )
      await Promise.all(
        Object.entries(places).map(async ([name, place]) => {
          if (!place.isShared) return
          const second = await stopSecond(box, name)
          const answers = await visit(place, 6 * MOST, () => process.kill(second, 'SIGKILL'))
          const most = answers.map((answer) => answer.most)
          assert.ok(Math.max(...most) <= MOST, `${name}, one for two: ${most}`)
          assert.is(new Set(answers.map(({ pid }) => pid)).size, 1)
        }),
      )
      await box.stop()
    })
  })

  caseOf(`acceptRate, ${engine}: connections come no faster, none is lost`, async () => {
    await inSandbox(async (box) => {
      const { tls, proxied, shared, sharedTls } = await everyPlace(box)
      const places = { tls, proxied, ...(shared && sharedTls ? { shared, sharedTls } : {}) } as Places
      await box.start(box.file('app.js', program(places, { acceptRate: RATE })), '--engine', engine)
      await Promise.all(
        Object.entries(places).map(async ([name, place]) => {
          const second = place.isShared ? await stopSecond(box, name) : 0
          const begun = performance.now()
          const guests = place.isShared ? 32 : 12
          await visit(place, guests, () => second > 0 && process.kill(second, 'SIGKILL'))
          const seconds = (performance.now() - begun) / 1000
          assert.ok(seconds > (guests - RATE / 10) / RATE - 0.05, `${name}: ${guests} in ${seconds} s`)
        }),
      )
      await box.stop()
    })
  })
}

test.run()
