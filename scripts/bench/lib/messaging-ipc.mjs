// process.send between a parent and a child, as in Node's documentation: the peer of the bench `messaging`. One-way
// messages are acknowledged from time to time, so that the number in flight is bounded. Lines as in messaging.mjs.
import { fork } from 'node:child_process'
import { createInterface } from 'node:readline'
import { measure, mostOf, Tally } from './messaging-loop.mjs'

if (process.send === undefined) parent()
else child()

function child() {
  const tally = new Tally()
  process.on('message', (message) => {
    if (message.cpu) return process.send({ id: message.id, body: sumOf(process.cpuUsage()) })
    if (message.id !== undefined) return process.send(message)
    if (tally.add(message.body.length) || message.isLast) process.send({ count: tally.count })
  })
}

function parent() {
  const other = fork(import.meta.filename)
  const waiting = new Map()
  let last = 0
  let sent = 0
  let told = 0
  let most = 1
  let wake = () => undefined
  other.on('message', ({ id, body, count }) => {
    if (id === undefined) {
      told = count
      wake()
    } else {
      waiting.get(id)(body)
      waiting.delete(id)
    }
  })
  const ask = (message) =>
    new Promise((resolve) => {
      const id = ++last
      waiting.set(id, resolve)
      other.send({ ...message, id })
    })
  const toldOf = async (isEnough) => {
    while (!isEnough())
      await new Promise((resolve) => {
        wake = resolve
      })
  }
  const carrier = {
    request: (body) => ask({ body }),
    send(body) {
      sent++
      most = mostOf(body.length)
      other.send({ body })
      return sent - told < most
    },
    room: () => toldOf(() => sent - told < most / 2),
    settled() {
      sent++
      other.send({ body: '', isLast: true })
      return toldOf(() => told === sent)
    },
    receiverCpu: () => ask({ cpu: true }),
  }
  createInterface({ input: process.stdin }).on('line', async (line) => {
    process.stdout.write(`${JSON.stringify(await measure(carrier, JSON.parse(line)))}\n`)
  })
}

function sumOf({ user, system }) {
  return user + system
}
