// Plays the same traffic on two engines and compares everything a user can see of it. A seed makes a plan; the plan is
// played against a server on one engine, then on the other, and the observations must be the same. The kernel's
// decisions (how a stream is split into reads, how much it takes at once) vary from run to run even on one engine. So
// where the outcome depends on them, a plan waits for the effect of a step before the next, and only what the contract
// promises is compared.

import * as assert from 'uvu/assert'
import { frame } from '../../protocols/frame.ts'
import { tcp } from '../../protocols/tcp.ts'
import { text } from '../../protocols/text.ts'
import { kShut } from '../../src/connection/symbols.ts'
import type { AnyConnection } from '../../src/connection.ts'
import type { AnyProtocol } from '../../src/protocol.ts'
import type { Transport } from '../../src/transport.ts'
import { slow } from './codecs.ts'
import { type Random, randomOf } from './random.ts'
import { type Client, type TestServer, withServer } from './tcp.ts'
import { nextTurn, until } from './until.ts'

const PROTOCOLS: readonly AnyProtocol[] = [text, text, frame, tcp, slow]
/** Callbacks in which a connection may be closed. */
const PLACES = ['onConnect', 'onMessage', 'onBufferFull', 'onBufferDrain', 'onError', 'onClose', 'async'] as const
type Place = (typeof PLACES)[number]
const WAYS = ['close', 'end', 'destroy', 'throw'] as const
type Way = (typeof WAYS)[number]
const PARTINGS = [
  ...(['end', 'end', 'destroy', 'reset', 'garbage'] as const),
  ...(['server close', 'server end', 'server destroy', 'server shut'] as const),
]
/** How many messages a client sends after the server's FIN, before its own. */
const LAST_MESSAGES = 20

/** What one connection does, and what is done to it. */
interface Plan {
  /** The size of each message. */
  readonly sizes: readonly number[]
  readonly cutSeed: number
  /** For each message, what its handler does. */
  readonly handlers: readonly Handler[]
  readonly trap: { readonly place: Place; readonly way: Way; readonly at: number } | null
  readonly parting: (typeof PARTINGS)[number]
  /** Length of the answers sent to a reader that has stopped. */
  readonly burst: number
}

const NEVER_FULL = 100_000_000

type Handler = 'answer' | 'later' | 'much later' | 'pause' | 'silent' | 'twice'

export interface Scenario {
  readonly seed: number
  readonly protocol: AnyProtocol
  readonly plans: readonly Plan[]
  readonly maxInFlight: number
  readonly maxQueuedMessages: number
  readonly maxSendBufferSize: number
}

export function scenarioOf(seed: number): Scenario {
  const random = randomOf(seed)
  const pick = <T>(from: readonly T[]) => from[random(from.length)] as T
  const protocol = pick(PROTOCOLS)
  const scenario = {
    seed,
    protocol,
    maxInFlight: 1 + random(2),
    maxQueuedMessages: 1 + random(8),
    maxSendBufferSize: pick([100_000, 1_000_000, 20_000_000]),
    plans: Array.from({ length: 1 + random(6) }, () => planOf(random, pick)),
  }
  return protocol === tcp ? { ...scenario, plans: scenario.plans.map(uncounted) } : scenario
}

/** Without packets the kernel decides the number of messages, so nothing may depend on the position of one. */
function uncounted(plan: Plan): Plan {
  const { trap, handlers } = plan
  return { ...plan, trap: trap && { ...trap, at: 0 }, handlers: handlers.map(() => handlers[0] as Handler) }
}

function planOf(random: Random, pick: <T>(from: readonly T[]) => T): Plan {
  const count = random(3) === 0 ? random(200) : random(12)
  const longest = pick([10, 10, 200, 5_000, 100_000])
  const trap = { place: pick(PLACES), way: pick(WAYS), at: random(count + 1) }
  return {
    sizes: Array.from({ length: Math.min(count, Math.ceil(2_000_000 / longest)) }, () => random(longest)),
    cutSeed: random(2 ** 31),
    handlers: Array.from({ length: count }, () =>
      pick<Handler>(['answer', 'answer', 'answer', 'later', 'much later', 'pause', 'silent', 'twice']),
    ),
    trap: random(3) === 0 ? trap : null,
    parting: pick(PARTINGS),
    burst: random(8) === 0 ? 10_000_000 : 0,
  }
}

/** What a user observes on one connection. */
interface Seen {
  readonly lines: string[]
  messages: number
  /** A hash of the messages in order. */
  digest: number
  bytesRead: number
  bytesWritten: number
  closes: number
  reason: string | null
  afterClose: number
  nested: number
  /** Whether its trap was sprung. */
  isTrapped: boolean
}

/** Plays a scenario on an engine. Returns the observations of the server's users and of its clients, per connection. */
export async function play(transport: Transport, scenario: Scenario): Promise<string[]> {
  const views: string[] = []
  const { plans, protocol } = scenario
  const stage = new Stage(scenario)
  await withServer(transport, protocol, stage.settings(), async (server) => {
    // One after another, so that the server's connections are in the order of the plans; then all at once.
    const actors: Actor[] = []
    for (const plan of plans) {
      const client = await server.connect({ allowHalfOpen: true })
      await until(() => stage.seen.length > actors.length)
      actors.push(new Actor(server, stage, client, plan, actors.length))
    }
    await Promise.all(actors.map((actor) => actor.run()))
    await until(() => server.worker.connections.size === 0 && server.worker.unsettled === 0, 20_000)
    const { counters } = server.worker
    for (const actor of actors) views.push(actor.view())
    views.push(`accepted ${counters.accepted} closed ${counters.closed} open ${counters.connections}`)
    views.push(`unsettled ${server.worker.unsettled}`)
  })
  return views
}

class Stage {
  readonly scenario: Scenario
  readonly seen: Seen[] = []
  readonly connections: AnyConnection[] = []
  readonly #at = new Map<AnyConnection, number>()
  #isHandling = false

  constructor(scenario: Scenario) {
    this.scenario = scenario
  }

  settings() {
    const { maxInFlight, maxQueuedMessages, maxSendBufferSize } = this.scenario
    return {
      maxInFlight,
      maxQueuedMessages,
      maxSendBufferSize,
      onConnect: (connection: AnyConnection) => this.#connected(connection),
      onMessage: (connection: AnyConnection, message: unknown) => this.#message(connection, message),
      onBufferFull: (connection: AnyConnection) => this.#told(connection, 'onBufferFull'),
      onBufferDrain: (connection: AnyConnection) => this.#told(connection, 'onBufferDrain'),
      onError: (connection: AnyConnection, code: number, message: string) => this.#failed(connection, code, message),
      onClose: (connection: AnyConnection) => this.#closed(connection),
    }
  }

  #connected(connection: AnyConnection): void {
    this.#at.set(connection, this.seen.length)
    connection.maxSendBufferSize = NEVER_FULL // a refusal before the burst would depend on the kernel
    this.connections.push(connection)
    this.seen.push({
      lines: [],
      messages: 0,
      digest: 0,
      bytesRead: 0,
      bytesWritten: 0,
      closes: 0,
      reason: null,
      afterClose: 0,
      nested: 0,
      isTrapped: false,
    })
    this.#trap(connection, 'onConnect', 0)
  }

  #of(connection: AnyConnection): readonly [Seen, Plan] {
    const at = this.#at.get(connection) ?? -1
    return [this.seen[at] as Seen, this.scenario.plans[at] as Plan]
  }

  #trap(connection: AnyConnection, place: Place, at: number): void {
    const [, { trap }] = this.#of(connection)
    if (trap?.place !== place || (place === 'onMessage' && trap.at !== at)) return
    this.#of(connection)[0].isTrapped = true
    if (trap.way === 'throw') throw new Error(`thrown in ${place}`)
    if (trap.way === 'destroy') connection.destroy()
    else connection[trap.way]()
  }

  #told(connection: AnyConnection, place: 'onBufferFull' | 'onBufferDrain'): void {
    this.#note(connection)
    this.#trap(connection, place, 0)
  }

  #note(connection: AnyConnection): Seen {
    const [seen] = this.#of(connection)
    if (seen.closes > 0) seen.afterClose++
    return seen
  }

  #failed(connection: AnyConnection, code: number, message: string): void {
    const [seen] = this.#of(connection)
    if (code !== 2) seen.lines.push(`${code} ${message}`)
    this.#trap(connection, 'onError', 0)
  }

  #closed(connection: AnyConnection): void {
    const seen = this.#note(connection)
    seen.closes++
    seen.reason = connection.closeReason
    seen.bytesRead = connection.bytesRead
    seen.bytesWritten = connection.bytesWritten
    this.#trap(connection, 'onClose', 0)
  }

  #message(connection: AnyConnection, message: unknown): unknown {
    const seen = this.#note(connection)
    const [, plan] = this.#of(connection)
    if (this.#isHandling) seen.nested++
    this.#isHandling = true
    try {
      const at = seen.messages++
      seen.digest = digestOf(seen.digest, Buffer.from(message as Uint8Array))
      this.#trap(connection, 'onMessage', at)
      return this.#handle(connection, plan.handlers[at % Math.max(1, plan.handlers.length)] ?? 'answer', message)
    } finally {
      this.#isHandling = false
    }
  }

  #handle(connection: AnyConnection, handler: Handler, message: unknown): unknown {
    const answer = () => connection.send(typeof message === 'string' ? message : Buffer.from(message as Uint8Array))
    const isCut = this.scenario.protocol === tcp // split by the kernel: each piece is answered once
    if (handler === 'answer' || (isCut && handler !== 'later' && handler !== 'pause')) return void answer()
    if (handler === 'silent') return undefined
    if (handler === 'twice') {
      answer()
      return void answer()
    }
    if (handler === 'pause') {
      connection.pauseRecv()
      setImmediate(() => connection.resumeRecv())
      return void answer()
    }
    return this.#later(connection, handler === 'later' ? 1 : 4, answer)
  }

  async #later(connection: AnyConnection, turns: number, answer: () => void): Promise<void> {
    for (let turn = 0; turn < turns; turn++) await nextTurn()
    answer()
    this.#trap(connection, 'async', 0)
  }
}

class Actor {
  readonly #server: TestServer
  readonly #stage: Stage
  readonly #client: Client
  readonly #plan: Plan
  readonly #at: number
  #written = 0

  constructor(server: TestServer, stage: Stage, client: Client, plan: Plan, at: number) {
    this.#server = server
    this.#stage = stage
    this.#client = client
    this.#plan = plan
    this.#at = at
  }

  get #seen(): Seen {
    return this.#stage.seen[this.#at] as Seen
  }

  get #connection(): AnyConnection {
    return this.#stage.connections[this.#at] as AnyConnection
  }

  get #isClosed(): boolean {
    return this.#seen.closes > 0
  }

  async run(): Promise<void> {
    await this.#talk()
    await this.#burst()
    await this.#part()
    await until(() => this.#isClosed || this.#client.hasEnded || this.#client.error !== null, 20_000)
    this.#client.socket.end()
    await until(() => this.#isClosed, 20_000)
    await until(() => this.#client.hasEnded || this.#client.isClosed || this.#client.error !== null, 20_000)
  }

  /** Sends messages in random pieces, each piece a write, and waits until the server has handled them all. */
  async #talk(): Promise<void> {
    const random = randomOf(this.#plan.cutSeed)
    const bytes = Buffer.concat(this.#plan.sizes.map((size, at) => packetOf(this.#stage.scenario.protocol, size, at)))
    const most = 1 + random(Math.min(bytes.length + 1, 200_000))
    const least = Math.ceil(bytes.length / 400)
    for (let from = 0; from < bytes.length && !this.#isClosed; ) {
      const size = least + random(most)
      if (!this.#client.socket.write(bytes.subarray(from, from + size)) || random(3) === 0) await nextTurn()
      from += size
    }
    this.#written = bytes.length
    await this.#waitFor(() => this.#connection.bytesRead === bytes.length)
    const { protocol } = this.#stage.scenario
    // With tcp every byte is echoed, however the stream was split.
    if (protocol === tcp) await this.#waitFor(() => this.#connection.bytesWritten === bytes.length)
    else await this.#waitFor(() => this.#seen.messages === this.#plan.sizes.length)
    await this.#waitFor(() => this.#isQuiet)
  }

  /** Also returns at the end of the connection, for example by a trap. */
  async #waitFor(condition: () => boolean): Promise<void> {
    await until(() => condition() || this.#isClosed || this.#isTrapped, 20_000)
  }

  /** The connection was ended at a byte that depends on the kernel. */
  get #isTrapped(): boolean {
    return this.#seen.isTrapped
  }

  get #isQuiet(): boolean {
    return this.#server.worker.unsettled === 0 && this.#connection.getSendBufferQueueSize() === 0
  }

  /** The reader stops: what the kernel does not take is kept or refused, and leaves when it reads on. */
  async #burst(): Promise<void> {
    if (this.#plan.burst === 0 || this.#isClosed) return
    const { socket } = this.#client
    socket.pause()
    this.#connection.maxSendBufferSize = this.#stage.scenario.maxSendBufferSize
    this.#connection.send(Buffer.alloc(this.#plan.burst, 'b'), true)
    await nextTurn()
    socket.resume()
    await this.#waitFor(() => this.#connection.getSendBufferQueueSize() === 0)
  }

  async #part(): Promise<void> {
    const { socket } = this.#client
    const connection = this.#connection
    const received = () => this.#client.chunks.reduce((sum, { length }) => sum + length, 0)
    // Waits until all sent bytes have arrived: a reset would discard what is in the kernel's buffers.
    await this.#waitFor(() => received() === connection.bytesWritten)
    if (this.#isTrapped) return
    const { parting } = this.#plan
    if (parting === 'end') socket.end()
    else if (parting === 'destroy') socket.destroy()
    else if (parting === 'reset') socket.resetAndDestroy()
    else if (parting === 'garbage') socket.end(this.#garbage())
    else if (parting === 'server shut') await this.#shut()
    else connection[parting.slice('server '.length) as 'close' | 'end' | 'destroy']()
  }

  /** The server sends FIN and receives on, as for a pipe that has ended: what comes before the peer's is handled. */
  async #shut(): Promise<void> {
    this.#connection[kShut]()
    await this.#waitFor(() => this.#hasHeardEnd)
    const last = Array.from({ length: LAST_MESSAGES }, (_, at) => packetOf(this.#stage.scenario.protocol, 10, at))
    const bytes = Buffer.concat(last)
    this.#written += bytes.length
    this.#client.socket.end(bytes)
  }

  /** A malformed packet. */
  #garbage(): Buffer {
    const { protocol } = this.#stage.scenario
    return protocol === frame ? Buffer.from([0, 0, 0, 1, 9]) : Buffer.from('half a line')
  }

  /** What must be the same. After a trap: only what does not depend on how the kernel split the stream. */
  view(): string {
    const { lines, messages, digest, bytesRead, bytesWritten, closes, reason, afterClose, nested } = this.#seen
    // Whether a second handler was at work when the first threw, and throws as well, depends on how the kernel split
    // the stream.
    const errors = this.#plan.trap?.place === 'async' ? [...new Set(lines)] : lines
    const always = `closes ${closes} after close ${afterClose} nested ${nested} errors ${JSON.stringify(errors)}`
    const { protocol } = this.#stage.scenario
    const count = protocol === tcp ? '' : ` messages ${messages} digest ${digest}`
    if (this.#isTrapped) return `${always} reason ${this.#trapReason(reason)}`
    const client = Buffer.concat(this.#client.chunks)
    // With two handlers at work, the order of the answers depends on turns of the loop, which engines count
    // differently.
    const order = this.#stage.scenario.maxInFlight > 1 ? '' : ` digest ${digestOf(0, client)}`
    const mine = `received ${client.length}${order} ended ${this.#hasHeardEnd}`
    return `${always}${count} read ${bytesRead} of ${this.#written} written ${bytesWritten} reason ${reason}; client ${mine}`
  }

  /** FIN or reset: which of them the kernel sends depends on what it has not yet passed on to us. */
  get #hasHeardEnd(): boolean {
    return this.#client.hasEnded || this.#client.isClosed || this.#client.error !== null
  }

  /** A trap in a callback that only a slow reader triggers may never be sprung, and the peer may leave first. */
  #trapReason(reason: string | null): string {
    return reason === 'peer' || reason === 'error' ? 'gone' : String(reason)
  }
}

function packetOf(protocol: AnyProtocol, size: number, at: number): Buffer {
  const body = Buffer.alloc(size, `${at},`)
  if (protocol === tcp) return body
  if (protocol !== frame) return Buffer.concat([body, Buffer.from('\n')])
  const head = Buffer.alloc(4)
  head.writeUInt32BE(size + 4)
  return Buffer.concat([head, body])
}

/** 32-bit FNV-1a. */
function digestOf(start: number, bytes: Uint8Array): number {
  let hash = start ^ 0x811c9dc5
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193)
  return hash >>> 0
}

/** Plays the scenario of `seed` on each engine and compares the results. */
export async function compare(engines: readonly Transport[], seed: number): Promise<void> {
  const scenario = scenarioOf(seed)
  const views: string[][] = []
  for (const engine of engines)
    try {
      views.push(await play(engine, scenario))
    } catch (error) {
      throw new Error(`SEED=${seed} on ${engine.name}: ${error}`, { cause: error })
    }
  for (const view of views.slice(1)) assert.equal(view, views[0], `SEED=${seed}: ${engines.map(({ name }) => name)}`)
}
