// NATS or Redis between two processes: the peers of the bench `messaging` that have a broker. Both protocols are
// hand-written, with one write per turn of the loop: less than any client library does. node messaging-broker.mjs
// nats|redis port
import { fork } from 'node:child_process'
import net from 'node:net'
import { createInterface } from 'node:readline'
import { measure, mostOf, Tally } from './messaging-loop.mjs'

const [, , kind, port] = process.argv

const nats = {
  hello: 'CONNECT {"verbose":false,"pedantic":false}\r\n',
  subscribe: (subject) => `SUB ${subject} 1\r\n`,
  publish: (subject, body) => `PUB ${subject} ${Buffer.byteLength(body)}\r\n${body}\r\n`,
  /** The next message, and where it ends; undefined while it is incomplete. */
  next(text, from) {
    for (let at = from; ; ) {
      const end = text.indexOf('\r\n', at)
      if (end < 0) return undefined
      if (!text.startsWith('MSG ', at)) {
        if (text.startsWith('-ERR', at)) throw new Error(text.slice(at, end))
        at = end + 2
        continue
      }
      const size = Number(text.slice(text.lastIndexOf(' ', end) + 1, end))
      if (text.length < end + 4 + size) return undefined
      return { body: text.slice(end + 2, end + 2 + size), end: end + 4 + size }
    }
  },
}
const redis = {
  hello: '',
  subscribe: (subject) => `SUBSCRIBE ${subject}\r\n`,
  publish: (subject, body) =>
    `*3\r\n$7\r\nPUBLISH\r\n$${subject.length}\r\n${subject}\r\n$${Buffer.byteLength(body)}\r\n${body}\r\n`,
  next(text, from) {
    for (let at = from; ; ) {
      const parts = replyAt(text, at)
      if (parts === undefined) return undefined
      if (parts.items[0] === 'message') return { body: parts.items[2], end: parts.end }
      at = parts.end
    }
  },
}
const codec = kind === 'nats' ? nats : redis

/** An array of bulk strings and numbers, or a number: the only replies we receive. */
function replyAt(text, from) {
  const items = []
  let at = from
  let left = 1
  while (left > 0) {
    const end = text.indexOf('\r\n', at)
    if (end < 0) return undefined
    const value = text.slice(at + 1, end)
    if (text[at] === '*') left += Number(value)
    else if (text[at] === '$') {
      if (text.length < end + 4 + Number(value)) return undefined
      items.push(text.slice(end + 2, end + 2 + Number(value)))
      at = end + 4 + Number(value)
      left--
      continue
    } else if (text[at] === '-') throw new Error(value)
    else items.push(value)
    at = end + 2
    left--
  }
  return { items, end: at }
}

class Client {
  #out = ''
  #rest = ''
  constructor(subject, onMessage) {
    this.subject = subject
    // Redis answers a publisher on its own connection, and a subscriber may not publish: so there are two.
    this.pub = net
      .connect(Number(port), '127.0.0.1')
      .setNoDelay()
      .on('data', () => undefined)
    this.sub = net.connect(Number(port), '127.0.0.1').setEncoding('latin1')
    this.pub.write(codec.hello)
    this.sub.write(codec.hello + codec.subscribe(subject))
    this.sub.on('data', (text) => {
      this.#rest += text
      let at = 0
      for (let one = codec.next(this.#rest, at); one !== undefined; one = codec.next(this.#rest, at)) {
        at = one.end
        onMessage(one.body)
      }
      this.#rest = this.#rest.slice(at)
    })
  }
  publish(subject, body) {
    if (this.#out === '') setImmediate(() => this.#flush())
    this.#out += codec.publish(subject, body)
  }
  #flush() {
    this.pub.write(this.#out, 'latin1')
    this.#out = ''
  }
}

if (process.send === undefined) parent()
else child()

// Bodies: `r<id> <body>` requests an answer, `c<id> ` the CPU time, `l` ends a one-way sequence, anything else is
// counted.

function child() {
  const tally = new Tally()
  const client = new Client('to.child', (body) => {
    if (body[0] === 'r') client.publish('to.parent', body)
    else if (body[0] === 'c') client.publish('to.parent', `r${body.slice(1)}${sumOf(process.cpuUsage())}`)
    else if (tally.add(body.length) || body[0] === 'l') client.publish('to.parent', `t${tally.count}`)
  })
  client.sub.once('data', () => process.send('up'))
  if (kind === 'nats') setTimeout(() => process.send('up'), 200)
}

function parent() {
  const waiting = new Map()
  let last = 0
  let sent = 0
  let told = 0
  let most = 1
  let wake = () => undefined
  const client = new Client('to.parent', (body) => {
    if (body[0] === 't') {
      told = Number(body.slice(1))
      return wake()
    }
    const space = body.indexOf(' ')
    const id = Number(body.slice(1, space))
    waiting.get(id)?.(body.slice(space + 1))
    waiting.delete(id)
  })
  const ask = (mark, body) =>
    new Promise((resolve) => {
      waiting.set(++last, resolve)
      client.publish('to.child', `${mark}${last} ${body}`)
    })
  const toldOf = async (isEnough) => {
    while (!isEnough())
      await new Promise((resolve) => {
        wake = resolve
      })
  }
  const send = (body) => {
    sent++
    most = mostOf(body.length)
    client.publish('to.child', body)
    return sent - told < most
  }
  const carrier = {
    request: (body) => ask('r', body),
    send,
    room: () => toldOf(() => sent - told < most / 2),
    settled() {
      send('l')
      return toldOf(() => told === sent)
    },
    receiverCpu: async () => Number(await ask('c', '')),
  }
  const other = fork(import.meta.filename, [kind, port])
  other.once('message', () => {
    createInterface({ input: process.stdin }).on('line', async (line) => {
      process.stdout.write(`${JSON.stringify(await measure(carrier, JSON.parse(line)))}\n`)
    })
  })
}

function sumOf({ user, system }) {
  return user + system
}
