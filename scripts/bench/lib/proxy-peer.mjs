// The peer of the bench `proxy`: the same on node:net, as usually written.
import { connect, createServer } from 'node:net'

const { hostname, port } = new URL(process.env.UPSTREAM)
const server = createServer({ noDelay: true }, (socket) => {
  const upstream = connect({ host: hostname, port: Number(port), noDelay: true })
  socket.pipe(upstream).pipe(socket)
  socket.on('error', () => upstream.destroy())
  upstream.on('error', () => socket.destroy())
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
