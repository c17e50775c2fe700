// The peers of the bench `broadcast`: node scripts/bench/lib/broadcast-peers.mjs net|ws. A loop over all connections,
// as usually written.
import { createServer } from 'node:net'
import { WebSocketServer } from 'ws'

function net() {
  const sockets = new Set()
  const server = createServer({ noDelay: true }, (socket) => {
    let rest = ''
    sockets.add(socket)
    socket.setEncoding('utf8')
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => socket.destroy())
    socket.on('data', (chunk) => {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop()
      for (const line of lines) for (const one of sockets) one.write(`${line}\n`)
    })
  })
  server.listen(0, '127.0.0.1', 511, () => console.log(server.address().port))
}

function ws() {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 }, () => console.log(server.address().port))
  server.on('connection', (socket) => {
    socket.on('error', console.error)
    socket.on('message', (data, binary) => {
      for (const client of server.clients) client.send(data, { binary })
    })
  })
}

const peers = { net, ws }
peers[process.argv[2]]()
