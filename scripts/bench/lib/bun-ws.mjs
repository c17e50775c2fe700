// The server of the bench `websocket` on Bun, as in its documentation. Runs in Bun, not in Node. With the argument
// `broadcast` each message goes to all connections, by publish; with `idle`, the message 'memory' is answered with its
// memory usage.
const mode = process.argv[2] ?? 'echo'

function memory() {
  Bun.gc(true)
  return JSON.stringify(process.memoryUsage())
}

const onMessage = {
  echo: (socket, message) => socket.send(message),
  broadcast: (_socket, message) => server.publish('all', message),
  idle: (socket, message) => socket.send(message === 'memory' ? memory() : message),
}

const server = Bun.serve({
  hostname: '127.0.0.1',
  port: 0,
  fetch: (request, server) => (server.upgrade(request) ? undefined : new Response('no', { status: 400 })),
  websocket: {
    open(socket) {
      if (mode === 'broadcast') socket.subscribe('all')
    },
    message: onMessage[mode],
  },
})
console.log(server.port)
