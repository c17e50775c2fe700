// A chat with rooms, over several processes: whoever is in a room sees what is said there, in whichever process their
// connections are. Open http://127.0.0.1:8888/ in several windows; `millrace reload` and `kill -9` as you like.
//
// Channel takes what is said to every process that has somebody in the room; a shared map has the last lines and who is there.

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

/** What is said, as pages get it. */
interface Line {
  /** A page that has just come may get one twice: among the last lines, and as it is said. */
  readonly id: string
  readonly who: string
  readonly text: string
  readonly time: number
  /** The worker that said it: to see that there are several. */
  readonly worker: number
}

/** The people of one room whose connections are in this process. */
interface Room {
  readonly members: Set<AnyConnection>
  readonly subscription: Subscription
}

const HISTORY = 50
const HISTORY_MS = 7 * 86_400_000
/** Who has not been heard of for so long has been in a process that was killed. */
const PRESENCE_MS = 15_000

const chat = new Worker('http://127.0.0.1:8888', { name: 'chat', count: 4, protocol: http({ websocket: websocket() }) })
const history = Shared.map<readonly Line[]>('history')
const rooms = new Map<string, Room>()

chat.onMessage = async (connection, request) => {
  if (typeof request === 'string' || request instanceof Uint8Array) return // of a WebSocket: it has a handler of its own
  if (request.path !== '/') return connection.send(new Response(404, { 'Content-Type': 'text/plain' }, 'not here\n'))
  const page = await readFile(new URL('page.html', import.meta.url), 'utf8')
  connection.send(new Response(200, { 'Content-Type': 'text/html; charset=utf-8' }, page))
}

chat.onWebSocketConnected = async (connection, request) => {
  const room = nameFrom(request?.get('room'), 'lobby').toLowerCase()
  const who = nameFrom(request?.get('name'), 'somebody')
  const key = `${who}#${randomUUID()}`
  const stay = () => present(room).set(key, who, { ttlMs: PRESENCE_MS })
  const staying = Timer.add(PRESENCE_MS / 3000, stay)

  connection.onMessage = (_connection, text) => say(room, who, String(text).slice(0, 1000))
  connection.onClose = async () => {
    Timer.del(staying)
    leave(room, connection)
    await present(room).delete(key)
    Channel.publish(subjectOf(room), await peopleIn(room))
  }
  await enter(room, connection)
  await stay()
  const lines = (await history.get(room)) ?? []
  connection.send(JSON.stringify({ worker: chat.id, room, lines }))
  Channel.publish(subjectOf(room), await peopleIn(room))
}

async function say(room: string, who: string, text: string): Promise<void> {
  if (text.trim() === '') return
  const line: Line = { id: randomUUID(), who, text, time: Date.now(), worker: chat.id }
  await keep(room, line) // first: what somebody has seen is there for all who come
  Channel.publish(subjectOf(room), { lines: [line] })
}

async function keep(room: string, line: Line): Promise<void> {
  for (;;) {
    const before = await history.get(room)
    const after = [...(before ?? []), line].slice(-HISTORY)
    if (await history.compareAndSet(room, before, after, { ttlMs: HISTORY_MS })) return
  }
}

/** The first one of this process subscribes for all: resolves when whatever is said anywhere comes here. */
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

/** Rooms have names that people choose; tokens of a subject have no dots, spaces or wildcards. */
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
