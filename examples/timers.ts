// Timers: a ticker that runs in one process of the group, a heartbeat and a login deadline for every connection.
//
//   node dist/start.js start dist/examples/timers.js
//   nc 127.0.0.1 8888            (type "login" within 5 seconds)

import { Timer, Worker } from 'millrace'

const LOGIN_WITHIN_SECONDS = 5
const HEARTBEAT_SECONDS = 2

const worker = new Worker('text://127.0.0.1:8888', { name: 'timers', count: 2 })

worker.onWorkerStart = async ({ id }) => {
  await Timer.sleep(0.05) // connect to a database, for example: no client is let in before this has settled
  if (id === 0) Timer.add(1, () => Worker.log(`tick, ${worker.connections.size} connections`))
}

worker.onConnect = (connection) => {
  connection.context.deadline = Timer.delay(LOGIN_WITHIN_SECONDS, () => connection.close('too late, bye'))
  connection.send('say "login"')
}

worker.onMessage = (connection, line) => {
  if (line !== 'login') return connection.send(`unknown: ${line}`)
  Timer.del(connection.context.deadline as number)
  connection.context.heartbeat ??= Timer.add(HEARTBEAT_SECONDS, () => connection.send('still there?'))
  return connection.send('welcome')
}

worker.onClose = (connection) => {
  Timer.del(connection.context.deadline as number)
  Timer.del((connection.context.heartbeat as number | undefined) ?? 0)
}

Worker.runAll()
