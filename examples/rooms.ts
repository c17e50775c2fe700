// Rooms to talk in, on as many machines as you like: whoever is in a room hears what is said there, whichever machine
// they are connected to. Needs NATS (`nats-server`, and `npm install @nats-io/transport-node`):
//
//   NATS=nats://10.0.0.5:4222 node dist/start.js start dist/examples/rooms.js      # on each machine
//   nc 127.0.0.1 8888                                                              # then `/join lobby`, and talk

import { Cluster, type Connection, Worker } from 'millrace'

const cluster = new Cluster('rooms', { nats: process.env.NATS })
const rooms = new Worker('text://0.0.0.0:8888', { name: 'rooms', count: 2 })
const members = new Map<Connection<string, string>, string>()

rooms.onConnect = (connection) => connection.send('Say /join <room>, then talk.')

rooms.onMessage = (connection, line) => {
  const [, room] = /^\/join (\w+)$/.exec(line) ?? []
  if (room !== undefined) {
    members.set(connection, room)
    return void connection.send(`You are in ${room}.`)
  }
  const present = members.get(connection)
  if (present === undefined) return void connection.send('Say /join <room> first.')
  cluster.publish(`rooms.${present}`, line)
}

rooms.onClose = (connection) => members.delete(connection)

// In every process, this one included.
cluster.subscribe('rooms.*', (line, { subject, from }) => {
  for (const [connection, room] of members) if (subject === `rooms.${room}`) connection.send(`${from.server}: ${line}`)
})

Worker.runAll()
