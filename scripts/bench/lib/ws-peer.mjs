// The peer of the bench `websocket`: the same server on the ws package.
import { WebSocketServer } from 'ws'

const server = new WebSocketServer({ host: '127.0.0.1', port: 0 }, () => console.log(server.address().port))
server.on('connection', (socket) => {
  socket.on('error', console.error)
  socket.on('message', (data, binary) => socket.send(data, { binary }))
})
