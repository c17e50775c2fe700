// The demo: what `npm start` and a `start` without a module run. Three groups on loopback.

import { Timer } from './loop/timer.ts'
import { Worker } from './worker.ts'
import './index.ts'

const hello = new Worker('text://127.0.0.1:8888', { name: 'hello', count: 4 })
hello.onMessage = (connection, line) => connection.send(`Hello, ${line}! This is worker ${hello.id}.`)

// Everyone who is connected to the same process hears everyone else.
const chat = new Worker('text://127.0.0.1:8889', { name: 'chat' })
chat.onConnect = (connection) => connection.send(`welcome, there are ${chat.connections.size} of you`)
chat.onMessage = (connection, line) => {
  for (const other of chat.connections.values()) if (other !== connection) other.send(`${connection.id}: ${line}`)
}

const clock = new Worker('text://127.0.0.1:8890', { name: 'clock' })
clock.onWorkerStart = () => {
  Timer.add(1, () => {
    for (const connection of clock.connections.values()) connection.send(new Date().toISOString())
  })
}

Worker.runAll()
