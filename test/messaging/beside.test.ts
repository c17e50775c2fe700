// Slots with two processes that serve clients at the same time: one that drains beside its successor, or a canary. What is
// published and broadcast reaches both, and what is for one of them reaches that one.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { longTest } from '../support/length.ts'
import { withNats } from '../support/nats.ts'
import { ask, Client, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

/** How long a process would drain for a client that does not go: longer than any of these tests may take. */
const DRAIN_MS = 60_000

// A client that says `stay` is being served until somebody says `go`, so its process drains as long; meanwhile that process
// speaks by itself. A line is heard by all, with the number of the process that has published it.
const chat = (count: number, bus = 'Channel', mark = '') => `
  import { Channel, Cluster, Timer, Worker } from 'millrace'
  const bus = ${bus}
  const chat = new Worker('text://127.0.0.1:0', { name: 'chat', count: ${count}, drainTimeoutMs: ${DRAIN_MS} })
  const self = () => chat.incarnation + '${mark}'
  let isOver = false
  chat.onWorkerStop = () => Worker.log('stops as ' + self())
  chat.onWorkerStart = () => bus.subscribe('room', (line) => {
    for (const one of chat.connections.values()) one.send(line)
    if (line.startsWith('go')) isOver = true
  }).ready
  chat.onSendFail = (error) => Worker.log('lost: ' + error.code)
  chat.onMessage = async (connection, line) => {
    const say = (what) => bus.publish('room', what + ' by ' + self())
    if (line === 'who') return connection.send('process ' + self())
    if (line !== 'stay') return say(line)
    for (let n = 0; !isOver; n++, await Timer.sleep(0.01)) say('tick ' + n)
  }
  Worker.runAll()
`

/** All that a client has heard. */
class Ear {
  readonly client: Client
  readonly heard: string[] = []

  private constructor(client: Client) {
    this.client = client
    void this.#listen()
  }

  static async at(port: number): Promise<Ear> {
    return new Ear(await Client.connect(port))
  }

  async #listen(): Promise<void> {
    for (;;) {
      const line = await this.client.line(DRAIN_MS).catch(() => null)
      if (line === null) return
      this.heard.push(line)
    }
  }

  count(line: string): number {
    return this.heard.filter((one) => one === line).length
  }

  /** The numbers of the ticks of a process that have been heard, in order. */
  ticks(by: string): number[] {
    return this.heard
      .flatMap((line) => Number(new RegExp(`^tick (\\d+) by ${by}$`).exec(line)?.[1] ?? Number.NaN))
      .filter((n) => !Number.isNaN(n))
  }
}

/** Asserts that the numbers follow each other without one that is missing or comes twice. */
function assertAll(numbers: readonly number[]): void {
  const [first = 0] = numbers
  assert.equal(
    numbers,
    numbers.map((_, n) => first + n),
  )
}

/** For something that goes on during a test: if it fails, so does what awaits it, and nothing else. */
function begun<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined)
  return promise
}

/** The pid, once a process of that slot and number is in this state. */
function untilState(box: Sandbox, incarnation: number, state: string): Promise<number> {
  return until(async () => {
    const found = workersOf(await box.status()).find((one) => one.incarnation === incarnation && one.state === state)
    return found?.pid
  }, 20_000)
}

/**
 * One client is with the old process, which says something all the time, and another with the one that follows it.
 * @param replace begins to replace that process, and resolves when it has gone
 * @param by how the one that follows calls itself
 */
async function chatOver(box: Sandbox, code: string, replace: () => Promise<unknown>, by: string): Promise<void> {
  const port = portOf(await box.start(box.file('app.js', code)))
  const old = await Ear.at(port)
  old.client.send('stay')
  await until(() => old.ticks('1').length > 3)
  const replacing = begun(replace())
  await until(() => box.log().includes('stops as 1'), 20_000)
  const young = await earOf(port, by)
  const lines = Array.from({ length: 20 }, (_, n) => `line ${n}`)
  for (const line of lines) young.client.send(line)
  await until(() => old.count(`line 19 by ${by}`) > 0 && young.ticks('1').length > 20)
  assert.equal(
    old.heard.filter((line) => line.startsWith('line')),
    lines.map((line) => `${line} by ${by}`),
  )
  assertAll(old.ticks('1'))
  assertAll(young.ticks('1'))
  young.client.send('go')
  await replacing
  assert.not.match(box.log(), /lost/)
  for (const { client } of [old, young]) client.close()
  await box.stop()
}

test('over a reload a chat stays one: the process that drains and its successor hear each other, each line once', () =>
  inSandbox((box) => chatOver(box, chat(1), () => box.operate({ command: 'reload' }), '2')))

longTest('over an upgrade of the master, too', () =>
  inSandbox((box) => {
    const upgrade = async () => {
      succeeded(await box.command('upgrade', box.file('app.js', chat(1, 'Channel', ' upgraded'))))
      await until(() => box.pids().length === 2, 20_000) // the new master and its process
    }
    return chatOver(box, chat(1), upgrade, '1 upgraded')
  }),
)

test('so does one over NATS', () =>
  inSandbox((box) =>
    withNats(box, ({ url }) =>
      chatOver(box, chat(1, `new Cluster('chat', { nats: '${url}' })`), () => box.operate({ command: 'reload' }), '2'),
    ),
  ))

test('a canary and the old processes are one chat, before it has its slot and after', () =>
  inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', chat(2))))
    const old = await Ear.at(port)
    old.client.send('stay')
    await until(() => old.ticks('1').length > 3)
    const reloading = begun(box.operate({ command: 'reload', names: [], canaryMs: 1500 }))
    await untilState(box, 2, 'canary')
    const young = await earOf(port, '2')
    young.client.send('hello')
    await until(() => old.count('hello by 2') === 1 && young.count('hello by 2') === 1 && young.ticks('1').length > 3)
    await untilState(box, 2, 'ready')
    young.client.send('again')
    await until(() => old.count('again by 2') === 1)
    await untilState(box, 1, 'draining')
    const seen = young.ticks('1').length
    await until(() => young.ticks('1').length > seen + 5)
    young.client.send('go')
    await reloading
    for (const ear of [old, young]) assertAll(ear.ticks('1'))
    assert.not.match(box.log(), /lost/)
    for (const { client } of [old, young]) client.close()
    await box.stop()
  }))

/** A client of the process that calls itself so: connections go to any of those that accept. */
async function earOf(port: number, by: string): Promise<Ear> {
  return until(async () => {
    const ear = await Ear.at(port)
    ear.client.send('who')
    const who = await until(() => ear.heard.find((line) => line.startsWith('process')))
    if (who === `process ${by}`) return ear
    ear.client.close()
    return null
  }, 20_000)
}

/** How the groups below reach each other. */
const HERE = `
  const theDesk = () => desk.worker(0)
  const gates = () => gate
`
const byNats = (url: string) => `
  const cluster = new Cluster('house', { nats: '${url}', server: 'here' })
  cluster.onSendFail = note
  const theDesk = () => cluster.group('desk').worker(0, 'here')
  const gates = () => cluster.group('gate')
`

// `gate` has the clients. `desk` stays over a reload of `gate`, and answers what its processes ask by a message, at once or
// when it is told to.
const desk = (ways = HERE) => `
  import { Cluster, Worker } from 'millrace'
  const lost = []
  const note = (error, message) => { lost.push([error.code, error.mayHaveBeenHandled, message.answer]) }
  ${ways}
  const gate = new Worker('text://127.0.0.1:0', { name: 'gate', drainTimeoutMs: ${DRAIN_MS} })
  const desk = new Worker('text://127.0.0.1:0', { name: 'desk', reloadable: false })
  let release
  const released = new Promise((resolve) => { release = resolve })
  gate.onMessage = (connection, line) => {
    if (line === 'who') return connection.send('process ' + gate.incarnation)
    if (line === 'stay') return released
    theDesk().send({ line, connection: connection.id, by: gate.incarnation })
  }
  gate.onWorkerMessage = (from, { kick, go, answer, connection, by }) => {
    if (go) release()
    else if (kick) for (const one of gate.connections.values()) one.send('kicked by ' + gate.incarnation)
    else gate.connections.get(connection)?.send(answer + ' of ' + by + ' at ' + gate.incarnation)
  }
  const asked = []
  const askers = new Set()
  gate.onSendFail = note
  desk.onWorkerMessage = (from, { line, connection, by }) => {
    const answer = () => from.send({ answer: line, connection, by })
    askers.add(from)
    if (line.startsWith('later')) asked.push(answer)
    else answer()
  }
  desk.onMessage = async (connection, line) => {
    if (line === 'kick') gates().broadcast({ kick: true })
    else if (line === 'go') gates().broadcast({ go: true })
    else if (line === 'answer') for (const answer of asked.splice(0)) answer()
    else if (line === 'any') for (let n = 0; n < 10; n++) gate.any().send({ kick: true })
    const isSettled = [...askers].every(({ pendingMessages }) => pendingMessages === 0)
    connection.send(JSON.stringify({ asked: asked.length, lost, isSettled }))
  }
  Worker.runAll()
`

async function portsOf(box: Sandbox, code: string): Promise<{ gate: number; desk: number }> {
  const { groups } = await box.start(box.file('app.js', code))
  const port = (wanted: string) => groups.find(({ name }) => name === wanted)?.port ?? 0
  return { gate: port('gate'), desk: port('desk') }
}

/** @param code of what is told when a process is gone */
async function answerOver(box: Sandbox, app: string, code: string): Promise<void> {
  const ports = await portsOf(box, app)
  const old = await Ear.at(ports.gate)
  for (const line of ['now', 'later 1']) old.client.send(line)
  await until(() => old.heard.includes('now of 1 at 1'))
  old.client.send('stay')
  const gone = await Client.connect(ports.gate)
  gone.send('later 2')
  await until(async () => JSON.parse(await ask(ports.desk, '')).asked === 2)
  const reloading = begun(box.operate({ command: 'reload' }))
  await untilState(box, 1, 'draining')
  const young = await Ear.at(ports.gate)
  young.client.send('who')
  await until(() => young.heard.includes('process 2'))
  await ask(ports.desk, 'kick')
  await until(() => old.heard.includes('kicked by 1') && young.heard.includes('kicked by 2'))
  await ask(ports.desk, 'answer')
  await until(() => old.heard.includes('later 1 of 1 at 1'))
  for (const line of ['later 3', 'later 4']) young.client.send(line)
  gone.close()
  await ask(ports.desk, 'go')
  await reloading
  await until(async () => JSON.parse(await ask(ports.desk, '')).asked === 2)
  await box.operate({ command: 'reload' })
  const last = await Ear.at(ports.gate)
  await ask(ports.desk, 'answer')
  const { lost } = await until(async () => {
    const told = JSON.parse(await ask(ports.desk, ''))
    return told.lost.length === 2 && told
  })
  assert.equal(lost, [
    [code, false, 'later 3'],
    [code, false, 'later 4'],
  ])
  last.client.send('who')
  await until(() => last.heard.length > 0)
  assert.equal(last.heard, ['process 3'])
  assert.equal(
    [...old.heard, ...young.heard].filter((line) => line.startsWith('later')),
    ['later 1 of 1 at 1'],
  )
  for (const { client } of [old, young, last]) client.close()
  await box.stop()
}

test('a process that drains hears a broadcast, and gets what is answered to it; when it is gone, nobody does', () =>
  inSandbox((box) => answerOver(box, desk(), 'ERR_PEER_LOST')))

longTest('over NATS, too', () =>
  inSandbox((box) => withNats(box, ({ url }) => answerOver(box, desk(byNats(url)), 'ERR_NO_RESPONDERS'))),
)

test('what a canary has asked for is answered to it; it has its share of what is for any, and none of its slot', () =>
  inSandbox(async (box) => {
    const ports = await portsOf(box, desk())
    const old = await Ear.at(ports.gate)
    const reloading = box.begin('reload', '--canary-ms', String(DRAIN_MS))
    await untilState(box, 2, 'canary')
    const young = await earOf(ports.gate, '2')
    for (let n = 0; n < 10; n++) young.client.send(`ask ${n}`)
    await until(() => young.heard.includes('ask 9 of 2 at 2'))
    assert.equal(
      young.heard.slice(1),
      Array.from({ length: 10 }, (_, n) => `ask ${n} of 2 at 2`),
    )
    assert.equal(old.heard, [])
    await until(async () => JSON.parse(await ask(ports.desk, '')).isSettled) // else the other one has less to do
    await ask(ports.desk, 'any')
    await until(() => old.count('kicked by 1') === 5 && young.count('kicked by 2') === 5)
    for (const { client } of [old, young]) client.close()
    await box.stop()
    await reloading.ended
  }))

test.run()
