// The server of the bench `http` on Bun, as in its documentation. Runs in Bun, not in Node.
const server = Bun.serve({
  hostname: '127.0.0.1',
  port: 0,
  fetch(request) {
    const body = new URL(request.url).pathname === '/' ? 'hello world!' : 'no'
    return new Response(body, { headers: { 'Content-Type': 'text/html; charset=utf-8' } })
  },
})
console.log(server.port)
