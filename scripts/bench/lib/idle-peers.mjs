// The peers of the bench `idle`: node --expose-gc scripts/bench/lib/idle-peers.mjs net|ws.
import { createServer } from 'node:net'
import { WebSocketServer } from 'ws'
import { memory } from './memory.mjs'

function net() {
  const server = createServer({ noDelay: true }, (socket) => {
    let rest = ''
    socket.setEncoding('utf8')
    socket.on('error', () => socket.destroy())
    socket.on('data', (chunk) => {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop()
      for (const line of lines) socket.write(`${line === 'memory' ? memory() : line}\n`)
    })
  })
  server.listen(0, '127.0.0.1', 511, () => console.log(server.address().port))
}

function ws() {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 }, () => console.log(server.address().port))
  server.on('connection', (socket) => {
    socket.on('error', console.error)
    socket.on('message', (data, binary) => socket.send(String(data) === 'memory' ? memory() : data, { binary }))
  })
}

const peers = { net, ws }
peers[process.argv[2]]()
