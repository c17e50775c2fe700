// The peer of the bench `tls`: the same server on node:tls, written by hand.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:tls'

const { CERT_FILE: cert, KEY_FILE: key } = process.env
const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (socket) => {
  let rest = ''
  socket.setEncoding('utf8').setNoDelay(true)
  socket.on('error', () => undefined)
  socket.on('data', (text) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop()
    for (const line of lines) socket.write(`${line}\n`)
  })
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
