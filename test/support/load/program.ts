// The server of a load: HTTP with all ways of answering, WebSockets and lines, each in a group of its own; and the
// crowd that talks to it, some clients of each kind.

import type { Status } from '../../../src/process/status/status.ts'
import { eventClient } from './event-client.ts'
import { httpClient } from './http-client.ts'
import type { Load } from './load.ts'
import { textClient } from './text-client.ts'
import { webSocketClient } from './websocket-client.ts'

export interface Shape {
  /** Processes of the HTTP group, default 2; the others have one. */
  readonly count?: number
  readonly reusePort: boolean
  readonly drainTimeoutMs: number
  /** Distinguishes one version of the code from another. */
  readonly version?: number
  /** Code that runs before `runAll`. */
  readonly more?: string
}

/** Every third handler is asynchronous. */
export function program({ count = 2, reusePort, drainTimeoutMs, version = 1, more = '' }: Shape): string {
  return `
  import { Chunk, http, Response, ServerSentEvents, Worker } from 'millrace'
  import { setTimeout as sleep } from 'node:timers/promises'
  const VERSION = ${version}
  const settings = { reusePort: ${reusePort}, drainTimeoutMs: ${drainTimeoutMs} }
  const web = new Worker('http://127.0.0.1:0', { ...settings, name: 'web', count: ${count} })
  const chat = new Worker('websocket://127.0.0.1:0', { ...settings, name: 'chat' })
  const lines = new Worker('text://127.0.0.1:0', { ...settings, name: 'lines' })
  const signature = (request) => '\\n' + request.get('id') + ' ' + process.pid

  async function* streamed(request) {
    for (let n = 0; n < 10; n++) {
      yield 'streamed '.repeat(100)
      await sleep(3)
    }
    yield signature(request)
  }

  async function events(connection, request) {
    connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
    let id = Number(request.header('last-event-id') ?? 0)
    while (!web.signal.aborted && !request.signal.aborted) {
      connection.send(new ServerSentEvents({ id: ++id, data: request.get('id') + ' ' + process.pid }))
      await sleep(20)
    }
    connection.send(new Chunk(''))
  }

  const routes = {
    '/now': (connection, request) => connection.send(signature(request)),
    async '/later'(connection, request) {
      await sleep(5 + Math.random() * 40)
      connection.send(signature(request))
    },
    '/upload': (connection, request) => connection.send('x'.repeat(request.rawBody().length) + signature(request)),
    '/stream': (connection, request) => connection.send(new Response(200, {}, streamed(request))),
    '/events': events,
  }
  web.onMessage = (connection, request) => routes[request.path](connection, request)

  let turn = 0
  chat.onMessage = lines.onMessage = async (connection, id) => {
    if (++turn % 3 === 0) await sleep(3)
    connection.send(id + ' ' + process.pid)
  }
  ${more}
  Worker.runAll()
  `
}

/** The ports of the groups of `program`, by name. */
export function portsOf({ groups }: Status): { web: number; chat: number; lines: number } {
  const portOf = (wanted: string) => groups.find(({ name }) => name === wanted)?.port ?? 0
  return { web: portOf('web'), chat: portOf('chat'), lines: portOf('lines') }
}

/** Adds some clients of each kind, multiplied by `size`. */
export function addCrowd(load: Load, { web, chat, lines }: ReturnType<typeof portsOf>, size = 1): void {
  const some = (least: number, most: number) => () => least + Math.random() * (most - least)
  const upload = { bytes: 40_000, pieces: 8 }
  load.add('keep-alive', 6 * size, httpClient({ port: web, path: '/now', thinkMs: some(0, 10) }))
  load.add('one request', size, httpClient({ port: web, path: '/later', thinkMs: some(300, 700) }))
  load.add('pipelined', 3 * size, httpClient({ port: web, path: '/now', pipelined: 4, thinkMs: some(1, 5) }))
  load.add('asynchronous', 4 * size, httpClient({ port: web, path: '/later', pipelined: 2 }))
  for (const isChunked of [false, true]) {
    const kind = isChunked ? 'upload, chunked' : 'upload'
    load.add(
      kind,
      3 * size,
      httpClient({ port: web, path: '/upload', upload: { ...upload, isChunked }, bodyBytes: upload.bytes }),
    )
  }
  load.add('streamed', 3 * size, httpClient({ port: web, path: '/stream', bodyBytes: 9000 }))
  load.add('events', 4 * size, eventClient(web))
  load.add('websocket', 8 * size, webSocketClient({ port: chat, inFlight: 2, thinkMs: some(0, 20) }))
  load.add('text', 6 * size, textClient({ port: lines, thinkMs: some(1, 20) }))
  load.add('text, pipelined', 2 * size, textClient({ port: lines, inFlight: 8, thinkMs: some(1, 4) }))
  load.add('text, one each', 2 * size, textClient({ port: lines, answersPerConnection: 1 }))
}
