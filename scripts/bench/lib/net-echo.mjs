// The peer of the text bench: a line echo on plain node:net, as usually written by hand: lines split from strings, one
// write per line, a limit on a line that never ends, and no reading while the peer does not read. With the argument
// `corked`, the lines of one chunk are sent as one writev; the bench runs that on request (`--peers`).
import { createServer } from 'node:net'

const maxLineChars = 10 * 1024 * 1024 // millrace's maxPackageSize
const isCorked = process.argv[2] === 'corked'

function onConnection(socket) {
  let rest = ''
  socket.setEncoding('utf8')
  socket.on('data', (chunk) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop()
    if (isCorked) socket.cork()
    for (const line of lines) socket.write(`${line}\n`)
    if (isCorked) socket.uncork()
    if (rest.length > maxLineChars) socket.destroy()
    else if (socket.writableNeedDrain) socket.pause()
  })
  socket.on('drain', () => socket.resume())
  socket.on('error', () => socket.destroy())
}

const server = createServer({ noDelay: true }, onConnection)
server.listen(0, '127.0.0.1', 511, () => console.log(server.address().port))
