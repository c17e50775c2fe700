// One of two processes that hand a connection to each other over descriptor 3, a Unix socket. The first one listens and
// reports where; each keeps the connection for a few turns of the loop. Arguments: `first` or `second`, and how often
// it hands the connection over.

import { closeSync } from 'node:fs'
import { text } from '../../protocols/text.ts'
import { addon } from '../../src/addon.ts'
import { kHandOver, kOpen, kTakeOver } from '../../src/connection/symbols.ts'
import { type AnyConnection, Connection } from '../../src/connection.ts'
import { codeOf } from '../../src/errors.ts'
import { parseAddress } from '../../src/net/address.ts'
import { bindSocket } from '../../src/net/bound-socket.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import type { HandedOver, Transport } from '../../src/transport.ts'
import { Worker } from '../../src/worker.ts'
import { nextTurn } from './until.ts'

const LINK = 3
const [, , place = 'first', times = '1'] = process.argv
const { sys } = addon()
const engine = nativeEngine()
if (sys === null || engine === null) throw new Error('there is no native engine')
const kernel = sys

let count = 0
const worker = new Worker<string, unknown>({
  maxSendBufferSize: 100_000_000,
  onMessage: (connection: AnyConnection, line: unknown) => answer(connection, line),
  onError: (_connection: AnyConnection, code: number, message: string) => say(`error ${code} ${message}`),
  onClose: () => process.exit(0),
})

/** Answers most lines at once, some a little later. */
function answer(connection: AnyConnection, line: unknown): unknown {
  if (count++ % 50 !== 0) return connection.send(line)
  return nextTurn().then(() => connection.send(line))
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}

/** Sends plain data as one line of JSON, with the descriptor beside it. */
async function give({ fd, unread, unsent, ...data }: HandedOver): Promise<void> {
  const packed = { ...data, unread: base64(unread), unsent: base64(unsent) }
  let bytes = Buffer.from(`${JSON.stringify(packed)}\n`)
  for (let fds = [fd]; bytes.length > 0; )
    try {
      bytes = bytes.subarray(kernel.sendDescriptors(LINK, bytes, fds))
      fds = []
    } catch (error) {
      if (codeOf(error) !== 'EAGAIN') throw error
      await moment()
    }
  closeSync(fd) // the other process has a copy
}

async function take(): Promise<HandedOver> {
  let line = ''
  let fd = -1
  while (!line.endsWith('\n'))
    try {
      const { bytes, descriptors, hasEnded } = kernel.receiveDescriptors(LINK, 65_536)
      if (hasEnded) process.exit(0)
      line += bytes.toString('latin1')
      fd = descriptors[0]?.release() ?? fd
    } catch (error) {
      if (codeOf(error) !== 'EAGAIN') throw error
      await moment()
    }
  const { unread, unsent, ...data } = JSON.parse(line)
  return { ...data, fd, unread: Buffer.from(unread, 'base64'), unsent: Buffer.from(unsent, 'base64') }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}

function moment(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 1))
}

/** Serves for some turns, then until it is between two messages. */
async function leave(connection: AnyConnection, turns: number): Promise<HandedOver> {
  for (let turn = 0; turn < turns; turn++) await nextTurn()
  for (;;) {
    const handed = connection[kHandOver]()
    if (handed !== null) return handed
    await nextTurn()
  }
}

function takeOver(transport: Transport, handed: HandedOver): AnyConnection {
  const connection: AnyConnection = new Connection(transport.adopt(handed), text, worker)
  connection[kTakeOver](handed)
  return connection
}

async function accepted(transport: Transport): Promise<AnyConnection> {
  const { fd, handle, endpoint } = await bindSocket(parseAddress('tcp://127.0.0.1:0'))
  return new Promise((resolve) => {
    const accept = transport.listen({ fd, handle, backlog: 1, expected: endpoint }, (socket) => {
      const connection: AnyConnection = new Connection(socket, text, worker)
      connection[kOpen]()
      resolve(connection)
      void accept.then((listener) => listener.close())
      return connection
    })
    void accept.then(() => say(endpoint))
  })
}

let left = Number(times)
let unread = 0
let unsent = 0
let connection = place === 'first' ? await accepted(engine) : takeOver(engine, await take())
for (;;) {
  if (left-- === 0) break
  const handed = await leave(connection, left % 5)
  if (handed.unread.length > 0) unread++
  if (handed.unsent.length > 0) unsent++
  await give(handed)
  if (left === 0 && place === 'second') break
  connection = takeOver(engine, await take())
}
say(`done ${JSON.stringify({ unread, unsent, open: worker.connections.size, counter: worker.counters.connections })}`)
