// The peers of the bench `http`: node scripts/bench/lib/http-peers.mjs node|fastify. Each as in its documentation.
import { createServer } from 'node:http'
import Fastify from 'fastify'

const TYPE = 'text/html; charset=utf-8'

function node() {
  const server = createServer((request, response) => {
    response.setHeader('Content-Type', TYPE)
    response.end(request.url === '/' ? 'hello world!' : 'no')
  })
  server.listen(0, '127.0.0.1', () => console.log(server.address().port))
}

async function fastify() {
  const app = Fastify()
  app.get('/', (_request, reply) => reply.type(TYPE).send('hello world!'))
  await app.listen({ host: '127.0.0.1', port: 0 })
  console.log(app.server.address().port)
}

await { node, fastify }[process.argv[2]]()
