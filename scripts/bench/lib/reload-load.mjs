// The load of the bench `reload`: a closed loop of text lines, or of HTTP requests, on many connections, each opened
// again when the server ends it. Prints what happened in each tenth of a second as a line of JSON, until its stdin
// closes.
//
// usage: node reload-load.mjs PORT CONNECTIONS text|http
import net from 'node:net'

const [port, connections] = process.argv.slice(2, 4).map(Number)
const speak = { text: speakText, http: speakHttp }[process.argv[4] ?? 'text']
const windowMs = 100
const counts = { answered: 0, crossed: 0, refused: 0, reset: 0, opened: 0 }
let isOver = false

/** Calls `onAnswer` for each answer. */
function speakText(onAnswer) {
  let bytes = 0
  return {
    request: 'thirty-two bytes, newline too !\n',
    take(data) {
      bytes += data.length
      for (; bytes >= 32; bytes -= 32) onAnswer(false)
    },
  }
}

/** `onAnswer` also receives whether the server announced the last answer of the connection. */
function speakHttp(onAnswer) {
  let rest = ''
  return {
    request: 'GET / HTTP/1.1\r\nHost: bench\r\n\r\n',
    take(data) {
      rest += data
      for (let end = endOf(rest); end > 0; end = endOf(rest)) {
        const isLast = /\r\nconnection: close\r\n/i.test(rest.slice(0, end))
        rest = rest.slice(end)
        onAnswer(isLast)
      }
    },
  }
}

/** Where the first answer ends, or 0 while it is incomplete. */
function endOf(text) {
  const head = text.indexOf('\r\n\r\n')
  if (head < 0) return 0
  const isChunked = /\r\ntransfer-encoding: chunked/i.test(text.slice(0, head))
  if (isChunked) return text.indexOf('\r\n0\r\n\r\n', head) < 0 ? 0 : text.indexOf('\r\n0\r\n\r\n', head) + 7
  const length = Number(/\r\ncontent-length: (\d+)/i.exec(text.slice(0, head))?.[1] ?? 0)
  return text.length < head + 4 + length ? 0 : head + 4 + length
}

function open() {
  let pending = 0
  const { request, take } = speak((isLast) => {
    pending--
    counts.answered++
    if (isLast) socket.end()
    else if (!isOver) ask()
  })
  const socket = net.connect(port, '127.0.0.1')
  const ask = () => {
    pending++
    socket.write(request)
  }
  counts.opened++
  socket
    .setNoDelay()
    .setEncoding('latin1')
    .on('connect', ask)
    .on('data', take)
    .on('end', () => {
      counts.crossed += pending
      pending = 0
    })
    .on('error', ({ code }) => {
      if (code === 'ECONNREFUSED') counts.refused++
      else counts.reset += Math.max(1, pending)
      pending = 0
    })
    .on('close', (hadError) => {
      if (!isOver) setTimeout(open, hadError ? 5 : 0)
    })
}

for (let n = 0; n < connections; n++) open()
setInterval(() => {
  console.log(JSON.stringify({ at: Date.now(), ...counts }))
  for (const key of Object.keys(counts)) counts[key] = 0
}, windowMs)
process.stdin.resume().on('end', () => {
  isOver = true
  process.exit(0)
})
