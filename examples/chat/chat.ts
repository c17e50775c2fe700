// A chat with rooms, over several processes: everyone in a room sees what is said there, whichever process their
// connections are in. Open http://127.0.0.1:8888/ in several windows; use `millrace reload` and `kill -9` as you like.
//
// Channel delivers each line to every process that has someone in the room; a shared map holds the last lines and who
// is present.

import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import {
  type AnyConnection,
  broadcast,
  Channel,
  http,
  Response,
  Shared,
  type Subscription,
  Timer,
  Worker,
  websocket,
} from 'millrace'

/** A line of the chat, as pages receive it. */
interface Line {
  /** For duplicates: a page that has just connected may receive a line twice, in the history and live. */
  readonly id: string
  readonly who: string
  readonly text: string
  readonly time: number
  /** The worker that received it: shows that there are several. */
  readonly worker: number
}

/** The people of one room whose connections are in this process. */
interface Room {
  readonly members: Set<AnyConnection>
  readonly subscription: Subscription
}

const HISTORY = 50
const HISTORY_MS = 7 * 86_400_000
/** A person not seen for this long was in a process that was killed. */
const PRESENCE_MS = 15_000

const chat = new Worker('http://127.0.0.1:8888', { name: 'chat', count: 4, protocol: http({ websocket: websocket() }) })
const history = Shared.map<readonly Line[]>('history')
const rooms = new Map<string, Room>()

chat.onMessage = async (connection, request) => {
  if (typeof request === 'string' || request instanceof Uint8Array) return // a WebSocket's: it has its own handler
  if (request.path !== '/') return connection.send(new Response(404, { 'Content-Type': 'text/plain' }, 'not here\n'))
  const page = await readFile(new URL('page.html', import.meta.url), 'utf8')
  connection.send(new Response(200, { 'Content-Type': 'text/html; charset=utf-8' }, page))
}

chat.onWebSocketConnected = async (connection, request) => {
  const room = nameFrom(request?.get('room'), 'lobby').toLowerCase()
  const who = nameFrom(request?.get('name'), 'somebody')
  const key = `${who}#${randomUUID()}`
  const stay = () => present(room).set(key, who, { ttlMs: PRESENCE_MS })
  // Nobody waits for what a timer calls: a rejection would end the process, and everyone's connection in it.
  const staying = Timer.add(PRESENCE_MS / 3000, () => stay().catch((error) => Worker.log(error)))

  connection.onMessage = (_connection, text) => say(room, who, String(text).slice(0, 1000))
  connection.onClose = async () => {
    Timer.del(staying)
    leave(room, connection)
    await present(room).delete(key)
    Channel.publish(subjectOf(room), await peopleIn(room))
  }
  await enter(room, connection)
  if (connection.signal.aborted) return // gone meanwhile: it would stay present for a while
  await stay()
  const lines = (await history.get(room)) ?? []
  connection.send(JSON.stringify({ worker: chat.id, room, lines }))
  Channel.publish(subjectOf(room), await peopleIn(room))
}

async function say(room: string, who: string, text: string): Promise<void> {
  if (text.trim() === '') return
  const line: Line = { id: randomUUID(), who, text, time: Date.now(), worker: chat.id }
  await keep(room, line) // first, so that a line anyone has seen is there for everyone who joins later
  Channel.publish(subjectOf(room), { lines: [line] })
}

async function keep(room: string, line: Line): Promise<void> {
  for (;;) {
    const before = await history.get(room)
    const after = [...(before ?? []), line].slice(-HISTORY)
    if (await history.compareAndSet(room, before, after, { ttlMs: HISTORY_MS })) return
  }
}

/** The first one in this process subscribes for all. Resolves when everything said anywhere arrives here. */
async function enter(name: string, connection: AnyConnection): Promise<void> {
  const room = rooms.get(name) ?? open(name)
  room.members.add(connection)
  await room.subscription.ready
}

function open(name: string): Room {
  const members = new Set<AnyConnection>()
  const subscription = Channel.subscribe(subjectOf(name), (message) => {
    broadcast(members, JSON.stringify(message), { slow: 'close' })
  })
  const room = { members, subscription }
  rooms.set(name, room)
  return room
}

function leave(name: string, connection: AnyConnection): void {
  const room = rooms.get(name)
  room?.members.delete(connection)
  if (room?.members.size !== 0) return
  room.subscription.unsubscribe()
  rooms.delete(name)
}

function present(room: string) {
  return Shared.map<string>(`in ${room}`)
}

async function peopleIn(room: string): Promise<{ people: string[] }> {
  const names = (await present(room).keys()).map((key) => key.replace(/#[^#]*$/, ''))
  return { people: [...new Set(names)].sort() }
}

/** People choose the names of rooms; tokens of a subject have no dots, spaces or wildcards. */
function subjectOf(room: string): string {
  return `room.${Buffer.from(room).toString('hex')}`
}

function nameFrom(given: unknown, otherwise: string): string {
  const name = String(given ?? '')
    .trim()
    .slice(0, 24)
  return name === '' ? otherwise : name
}

Worker.runAll()
