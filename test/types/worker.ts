// Type tests of the Worker: compiled by `tsc --noEmit` in the test run, never executed. `@ts-expect-error` is the
// assertion that something does not compile.

import {
  type AnyConnection,
  AsyncTcpConnection,
  AsyncUdpConnection,
  Channel,
  type CodecProtocol,
  type Connection,
  delimited,
  type HttpProtocol,
  http,
  type Protocol,
  type Request,
  type Session,
  Timer,
  type UdpConnection,
  Worker,
  type WorkerRef,
  type WorkerSettings,
  websocket,
} from 'millrace'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
declare function expect<A, B>(equal: Equal<A, B>): void

// A literal address tells what is received and sent
const echo = new Worker('text://0.0.0.0:8888', { count: 4, name: 'echo' })
echo.onMessage = (connection, line) => {
  expect<typeof line, string>(true)
  return connection.send(`Hello, ${line}!`)
}
echo.onMessage = (connection, line) => connection.send(line)
echo.onMessage = async (connection, line) => {
  connection.send(line)
}
echo.onConnect = (connection) => console.log(connection.getRemoteIp())
echo.onMessage = (connection) => {
  // @ts-expect-error text takes strings and bytes
  connection.send(42)
}
// @ts-expect-error a string, not a number
echo.onMessage = (_connection, line: number) => line

// The founding program
const founding = new Worker('tcp://0.0.0.0:8888')
founding.count = 4
founding.onWorkerStart = (worker) => console.log(`Worker ${worker.id} started`)
founding.onMessage = (connection, data) => {
  expect<typeof data, Buffer>(true)
  connection.send(`Hello, ${data}!`)
}

// Handlers in the constructor, in both of its forms
new Worker('text://x:1', {
  onMessage(connection, line) {
    expect<typeof line, string>(true)
    connection.send(line)
  },
})
new Worker({
  listen: 'frame://x:1',
  onMessage(connection, payload) {
    expect<typeof payload, Buffer>(true)
    connection.send(payload)
  },
})

// A template literal keeps its scheme
declare const port: number
new Worker(`text://0.0.0.0:${port}`, { onMessage: (_connection, line) => expect<typeof line, string>(true) })

// A protocol object and an address from configuration
declare const config: { address: string }
interface Command {
  op: string
}
declare const commands: Protocol<Command, { ok: boolean }>
new Worker({
  listen: config.address,
  protocol: commands,
  count: 4,
  onMessage(connection, message) {
    expect<typeof message, Command>(true)
    connection.send({ ok: true })
  },
})
const configured = new Worker({ listen: config.address, protocol: commands })
configured.onMessage = (connection, message) => connection.send({ ok: message.op === '' })
// @ts-expect-error wrong reply
configured.onMessage = (connection) => connection.send('no')

// Its own protocol object wins over the scheme
const both = new Worker('text://x', { protocol: commands })
both.onMessage = (connection, message) => connection.send({ ok: message.op === '' })

// Codecs
declare const mqtt: CodecProtocol<{ topic: string }, Uint8Array>
new Worker('mqtt://x:1', {
  protocol: mqtt,
  onMessage(connection, message) {
    expect<typeof message, { topic: string }>(true)
    connection.send(new Uint8Array(1))
  },
})

// A plain string, and a literal scheme that nobody declared: unknown, never never
const plain = new Worker(config.address)
plain.onMessage = (connection, message) => {
  expect<typeof message, unknown>(true)
  connection.send('anything')
  connection.send({ a: 1 })
}
const gopher = new Worker('gopher://x')
gopher.onMessage = (connection, message) => {
  expect<typeof message, unknown>(true)
  connection.send(1)
}

// A package declares its scheme and its callbacks
const json: Protocol<unknown[], object> = {
  name: 'json',
  input: delimited('\n'),
  decode: (packet) => JSON.parse(packet.toString()),
  encode: (message) => `${JSON.stringify(message)}\n`,
}
declare module 'millrace' {
  interface Protocols {
    json: typeof json
  }
  interface ProtocolCallbacks {
    onTopic?: (connection: AnyConnection, topic: string) => unknown
  }
}
const declared = new Worker('json://x')
declared.onMessage = (connection, message) => {
  expect<typeof message, unknown[]>(true)
  connection.send({})
}
declared.onTopic = (connection, topic) => connection.send(topic)

// A Worker of HTTP and WebSocket gets messages of both, unless a WebSocket has a handler of its own
const site = new Worker('http://x:1', { protocol: http({ websocket: websocket(), compress: true }) })
site.onMessage = (connection, message) => {
  expect<typeof message, Request | string | Buffer>(true)
  if (typeof message === 'string' || message instanceof Uint8Array) return
  connection.send({ path: message.path })
}
const api = new Worker('http://x:1', { protocol: http({ compress: true, websocket: null }) })
api.onMessage = (_connection, request) => expect<typeof request, Request>(true)
expect<ReturnType<typeof http>, HttpProtocol>(true)

// Without an address
const mailbox = new Worker({ name: 'TaskWorker', count: 4 })
const empty = new Worker()
mailbox.onMessage = (from: WorkerRef, message, { isRequest, signal }) =>
  isRequest ? from.request(message, { signal }) : from.send(`${from.id}: ${message}`)
mailbox.onWorkerMessage = async (from, message, call) => {
  expect<typeof from, WorkerRef>(true)
  expect<typeof message, unknown>(true)
  expect<typeof from.group, string>(true)
  const answer = await from.request(message, { timeoutMs: call.remainingMs, signal: call.signal })
  expect<typeof answer, unknown>(true)
  return (
    from.send(answer) && mailbox.broadcast(1) && Worker.group('other').any().send(mailbox.by('key').pendingMessages)
  )
}
new Worker('text://x', {
  serial: true,
  onWorkerMessage: (from) => from.id,
  onSendFail: (error, _message, to) => to.send(error),
})
using subscription = Channel.subscribe(
  'a.*',
  (_message, { subject, from, call }) => call.isRequest && from.send(subject),
  { queue: 'q' },
)
expect<typeof subscription.ready, Promise<void>>(true)
// @ts-expect-error no number
mailbox.getWorkerById('0')
// @ts-expect-error no such option
empty.worker(0).request(1, { timeout: 1 })

// Mistakes
// @ts-expect-error protocol that is none
new Worker({ listen: config.address, protocol: { name: 'x' } })
// @ts-expect-error unknown option
new Worker('text://x', { cuont: 4 })
// @ts-expect-error unknown callback
echo.onMesage = () => undefined
// @ts-expect-error the web's Response would admit nobody
echo.onWebSocketConnect = () => new globalThis.Response(null, { status: 401 })

// Keeping many
// biome-ignore lint/suspicious/noExplicitAny: what a list of unlike workers is
const all: Worker<any, any>[] = [echo, founding, configured, plain, mailbox, empty]
const some = (connection: AnyConnection) => connection.close()
echo.onClose = some

// A union of literals
declare const either: 'text://a' | 'tcp://b'
const union = new Worker(either)
union.onMessage = (_connection, message) => expect<typeof message, string | Buffer>(true)

// A Worker made in onWorkerStart has the types of what it is made with, as any other
const outer = new Worker({ name: 'outer' })
outer.onWorkerStart = async () => {
  const admin = new Worker('text://127.0.0.1:5678')
  admin.onMessage = (connection, line) => {
    expect<typeof line, string>(true)
    connection.send(connection.getRemoteIp())
  }
  expect<ReturnType<typeof admin.listen>, Promise<void>>(true)
  await admin.listen()
}

// Inheritance, pipes, raw sends
class Mine extends Worker<'text://x'> {
  override onMessage = (connection: Connection<string, string | Uint8Array>, line: string) => connection.send(line)
}
founding.onConnect = (connection) => {
  connection.pipe(connection)
  connection.send(new Uint8Array(1), true)
  connection.onMessage = (own, data) => own.send(data)
}

// Leaving
founding.onWorkerRetire = async (worker) => expect<typeof worker.incarnation, number>(true)
founding.onWorkerActive = (worker) => worker.signal.addEventListener('abort', () => undefined)
founding.onWorkerReload = null
const release = founding.hold('upload')
release()
release[Symbol.dispose]()
founding.onMessage = (connection) => fetch('http://x', { signal: connection.signal })
new Worker('text://x', { drainTimeoutMs: 5, reloadMode: 'stop-first', reloadable: false, execArgv: ['--inspect'] })
// @ts-expect-error unknown mode
new Worker('text://x', { reloadMode: 'soon' })
// @ts-expect-error a list, not a line
new Worker('text://x', { execArgv: '--inspect' })
// @ts-expect-error true or false
new Worker('text://x', { reloadable: 1 })
// @ts-expect-error milliseconds, as a number
new Worker('text://x', { drainTimeoutMs: '5s' })
expect<ReturnType<typeof founding.hold>, (() => void) & Disposable>(true)
expect<typeof founding.signal, AbortSignal>(true)
// @ts-expect-error it is the worker's to abort
founding.signal = new AbortController().signal

// Timer
const id = Timer.add(1, (a: number, b: string) => `${a}${b}`, [1, 'x'])
expect<typeof id, number>(true)
// @ts-expect-error arguments of another type
Timer.add(1, (a: number) => a, ['x'])
Timer.delay(1, (a, b) => a + b.length, [1, 's'])
Timer.repeat(1, (a, b) => expect<[typeof a, typeof b], [number, string]>(true), [1, 's'])
Timer.add(1, (list: string[]) => list.join(), [['a']], false)
declare const texts: string[]
Timer.delay(1, (...all: string[]) => all.join(), texts)
// @ts-expect-error one too many for what it takes
Timer.delay(1, (a: number) => a, [1, 's'])
Timer.add(0.5, () => console.log('tick'))
const slept = Timer.sleep(1)
expect<typeof slept, Promise<void>>(true)

export { all, Mine, mixed, streams }

// A literal udp:// address has datagrams
const beacon = new Worker('udp://0.0.0.0:9000', { maxDatagramsInFlight: 8 })
beacon.onMessage = (connection, datagram) => {
  expect<typeof datagram, Buffer>(true)
  expect<typeof connection, UdpConnection<string | Uint8Array>>(true)
  expect<typeof connection.transport, 'udp'>(true)
  // @ts-expect-error there is nothing to pause
  connection.pauseRecv()
  // @ts-expect-error udp sends a string or bytes
  connection.send(42)
  return connection.send(datagram)
}
declare const numbers: Protocol<number, number>
new Worker('udp://0.0.0.0:9000', {
  protocol: numbers,
  onMessage: (connection, value) => {
    expect<typeof value, number>(true)
    return connection.send(value + 1)
  },
})
// transport: 'udp' in the constructor, whatever the scheme is
const over = new Worker('text://0.0.0.0:9001', {
  transport: 'udp',
  onMessage: (connection, line) => {
    expect<typeof line, string>(true)
    expect<typeof connection, UdpConnection<string | Uint8Array>>(true)
    // @ts-expect-error there is nothing to pause
    connection.pauseRecv()
    return connection.send(line)
  },
})
over.onMessage = (connection) => expect<typeof connection.transport, 'udp'>(true)
over.onWorkerStart = (worker) => expect<typeof worker, typeof over>(true)
new Worker({
  listen: 'tcp://0.0.0.0:9002',
  transport: 'udp',
  protocol: numbers,
  onMessage: (connection, value) => {
    expect<typeof connection, UdpConnection<number>>(true)
    return connection.send(value)
  },
})
const secured = new Worker('text://0.0.0.0:9003', { transport: 'ssl' })
secured.onMessage = (connection) => {
  expect<typeof connection, Connection<string, string | Uint8Array>>(true)
  return connection.pauseRecv()
}
declare const chosen: 'tcp' | 'udp'
new Worker('text://0.0.0.0:9004', {
  transport: chosen,
  onMessage: (connection, line) => connection.send(line), // what both can
})
// biome-ignore lint/suspicious/noExplicitAny: the widest Worker of any kind
const mixed: Worker<any, any, any>[] = [echo, secured, over]
// biome-ignore lint/suspicious/noExplicitAny: the widest Worker of streams
const streams: Worker<any, any, 'stream'>[] = [echo, secured]
// @ts-expect-error its callbacks get no connections
streams.push(over)
// @ts-expect-error no such transport
new Worker('text://0.0.0.0:9000', { transport: 'sctp' })

const statsd = new AsyncUdpConnection('udp://127.0.0.1:8125')
statsd.onMessage = (_client, message) => expect<typeof message, Buffer>(true)
statsd.send('requests:1|c')
const lines = new AsyncUdpConnection('text://127.0.0.1:8125', {
  onMessage(client, line) {
    expect<typeof line, string>(true)
    client.send(line)
  },
})
// @ts-expect-error text takes strings and bytes
lines.send({})

// A plain name is any of its kind, in helpers and in lists; what a session is can be named
export const visits = async (request: Request): Promise<unknown> => {
  const session: Session = await request.session()
  return session.get('visits')
}
const mailboxes = new Worker({ name: 'x' })
const beacons = new Worker('udp://127.0.0.1:3')
const setUp = (worker: Worker) => worker.name
for (const one of [echo, founding, configured, both, plain, beacons, mailboxes, empty, over]) setUp(one)
setUp(echo)
echo.onWorkerStart = setUp
// A helper may set and wrap what any Worker has: its messages are of any type, and so is what they come with.
export const counted = (worker: Worker): void => {
  const before = worker.onMessage
  worker.onMessage = (connection, message) => {
    connection.send(message)
    connection.close()
    return before?.(connection, message)
  }
}
export class Handler {
  constructor(worker: Worker) {
    worker.onMessage = this.handle.bind(this)
  }
  handle(connection: Connection, message: unknown): void {
    connection.send(message)
  }
}
for (const one of [echo, both, beacons, mailboxes]) counted(one)
// Settings for several Workers, whatever their protocols are
const common: WorkerSettings = { count: 2, onClose: () => undefined, onMessage: () => undefined }
new Worker('text://x', common)
new Worker('udp://x:1', common)
new Worker({ ...common, name: 'x' })
new Worker({ ...common, listen: config.address, protocol: commands })
beacons.onWorkerStart = setUp
const listed: Worker[] = [echo, founding, plain, beacons, mailboxes, empty, over, ...Worker.getAllWorkers()]
const named = new Map<string, Worker>([['echo', echo]])
const bye = (connection: Connection) => connection.close()
echo.onConnect = bye
echo.onMessage = (connection) => bye(connection)
plain.onConnect = bye
echo.onClose = bye
const upstream = new AsyncTcpConnection('text://a:1')
bye(upstream)
echo.onConnect = (connection) => connection.pipe(upstream)
// @ts-expect-error a UdpConnection is none
beacons.onMessage = (connection) => bye(connection)
expect<typeof echo, Worker<'text://0.0.0.0:8888'>>(true)

export { listed, named }
