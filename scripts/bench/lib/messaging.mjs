// The millrace side of the bench `messaging`: a worker that sends, one that receives, and some that subscribe to a
// subject. Each line sent to the address is a case, and the answer is its result. With NATS in the environment, the
// messages go to the same receiver through a Cluster.
import { Channel, Cluster, Worker } from 'millrace'
import { measure } from './messaging-loop.mjs'

const sender = new Worker(process.env.LISTEN, { name: 'sender' })
// 64 messages of 1 MiB in flight exceed the default.
const receiver = new Worker({ name: 'receiver', maxMailboxBytes: 128 * 1_048_576 })
const listeners = new Worker({ name: 'listeners', count: Number(process.env.LISTENERS ?? 1) })
const perProcess = Number(process.env.PER_PROCESS ?? 1)

const used = () => {
  const { user, system } = process.cpuUsage()
  return user + system
}
const ASK_CPU = 'cpu'
receiver.onMessage = (_from, message, { isRequest }) => (message === ASK_CPU ? used() : isRequest ? message : undefined)
listeners.onMessage = used
let heard = 0
listeners.onWorkerStart = () => {
  for (let n = 0; n < perProcess; n++) Channel.subscribe('bench.subject', () => heard++)
}

const { NATS } = process.env
const cluster = NATS && new Cluster('bench', { nats: NATS, server: 'here', maxPendingBytes: 128 * 1_048_576 })

let wake = () => undefined
if (cluster) cluster.onBufferDrain = () => wake()
receiver.onWorkerBufferDrain = listeners.onWorkerBufferDrain = () => wake()
const room = () =>
  new Promise((resolve) => {
    wake = resolve
  })

sender.onMessage = async (connection, line) => {
  const to = cluster ? cluster.group('receiver').worker(0, 'here') : receiver.worker(0)
  const all = Array.from({ length: listeners.count }, (_, id) => listeners.worker(id))
  const isPublish = JSON.parse(line).kind === 'publish'
  const pending = () => (isPublish ? all : [to]).some(({ pendingMessages }) => pendingMessages > 0)
  const carrier = {
    request: (message) => to.request(message),
    send: (message) => to.send(message),
    publish: (message) => Channel.publish('bench.subject', message),
    room,
    async settled() {
      while (pending()) await new Promise(setImmediate)
    },
    async receiverCpu() {
      if (!isPublish) return to.request(ASK_CPU)
      return (await Promise.all(all.map((one) => one.request('')))).reduce((sum, us) => sum + us, 0)
    },
  }
  connection.send(JSON.stringify(await measure(carrier, JSON.parse(line))))
}

Worker.runAll()
