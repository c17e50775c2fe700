// The load of the bench `reload`: a closed loop of text lines on many connections, each opened again when the server
// ends it. Prints what happened in each tenth of a second as a line of JSON, until its stdin closes.
//
// usage: node reload-load.mjs PORT CONNECTIONS
import net from 'node:net'

const [port, connections] = process.argv.slice(2).map(Number)
const windowMs = 100
const counts = { answered: 0, crossed: 0, refused: 0, reset: 0, opened: 0 }
let isOver = false

function open() {
  let pending = 0
  let rest = 0
  const socket = net.connect(port, '127.0.0.1')
  const ask = () => {
    pending++
    socket.write('thirty-two bytes, newline too !\n')
  }
  counts.opened++
  socket
    .setNoDelay()
    .on('connect', ask)
    .on('data', (bytes) => {
      rest += bytes.length
      for (; rest >= 32; rest -= 32) {
        pending--
        counts.answered++
        if (!isOver) ask()
      }
    })
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
