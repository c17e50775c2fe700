// The demo: run by `npm start`, and by `start` without a module. Four groups on loopback; the last is for a browser.

import { broadcast, http, Response, websocket } from './index.ts'
import { Timer } from './loop/timer.ts'
import { Worker } from './worker.ts'

const hello = new Worker('text://127.0.0.1:8888', { name: 'hello', count: 4 })
hello.onMessage = (connection, line) => connection.send(`Hello, ${line}! This is worker ${hello.id}.`)

// All clients connected to the same process receive one another's lines.
const chat = new Worker('text://127.0.0.1:8889', { name: 'chat' })
chat.onConnect = (connection) => connection.send(`welcome, there are ${chat.connections.size} of you`)
chat.onMessage = (connection, line) => {
  for (const other of chat.connections.values()) if (other !== connection) other.send(`${connection.id}: ${line}`)
}

const clock = new Worker('text://127.0.0.1:8890', { name: 'clock' })
clock.onWorkerStart = () => {
  Timer.add(1, () => {
    for (const connection of clock.connections.values()) connection.send(new Date().toISOString())
  })
}

// A page, an upload that is counted as it arrives, and a chat over WebSocket, on one port.
const site = new Worker('http://127.0.0.1:8891', {
  name: 'site',
  protocol: http({ body: 'stream', websocket: websocket() }),
})
site.onWebSocketConnected = (guest) => {
  const everybody = (line: string) => {
    const guests = [...site.connections.values()].filter(({ protocol }) => protocol.name === 'websocket')
    broadcast(guests, line)
  }
  everybody(`guest ${guest.id} has come`)
  guest.onMessage = (_guest, line) => everybody(`guest ${guest.id}: ${line}`)
  guest.onClose = () => everybody(`guest ${guest.id} has left`)
}
site.onMessage = async (connection, request) => {
  if (typeof request === 'string' || request instanceof Uint8Array) return // a guest's, which has its own handler
  if (request.path === '/') return connection.send(PAGE)
  if (request.path === '/favicon.ico') return connection.send(new Response(204))
  if (request.path !== '/upload') return connection.send(new Response(404, {}, 'not here'))
  let bytes = 0
  for await (const part of request.body) bytes += part.length
  return connection.send({ bytes })
}

const PAGE = `<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width"><title>millrace</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 2em auto; padding: 0 1em; color: #222 }
#lines { border: 1px solid #bbb; padding: .5em; height: 12em; overflow: auto; white-space: pre-wrap }
form { display: flex; gap: .5em; margin-top: .5em } #text { flex: 1 } #text, button { font: inherit; padding: .3em .6em } progress { width: 12em }
</style>
<h1>millrace</h1>
<p>This page, the upload and the chat come from one process, through one port.</p>
<h2>Upload</h2>
<p><input type=file id=file aria-label="a file"> <progress id=bar value=0 aria-label="sent"></progress> <output id=result></output></p>
<h2>Chat</h2>
<div id=lines role=log></div>
<form id=say><input id=text autocomplete=off aria-label="say something" placeholder="say something"><button>Send</button></form>
<script type=module>
const $ = (id) => document.getElementById(id)
$('file').onchange = () => {
  const [file] = $('file').files
  if (file === undefined) return
  const request = new XMLHttpRequest()
  $('result').value = ''
  request.upload.onprogress = ({ loaded, total }) => { $('bar').value = loaded / total }
  request.onload = () => { $('result').value = JSON.parse(request.responseText).bytes.toLocaleString() + ' bytes' }
  request.onerror = () => { $('result').value = 'failed' }
  request.open('PUT', '/upload')
  request.send(file)
}
const show = (line) => { $('lines').append(line + '\\n'); $('lines').scrollTop = 1e9 }
let socket
let wait = 100
// A reload of the server says goodbye with 1012: at another process everybody is welcome again.
function connect() {
  socket = new WebSocket(location.origin.replace('http', 'ws'))
  socket.onopen = () => { wait = 100 }
  socket.onmessage = ({ data }) => show(data)
  socket.onclose = ({ code }) => {
    if (wait === 100) show('the connection has closed (' + code + '), connecting again...')
    setTimeout(connect, wait)
    wait = Math.min(wait * 2, 5000)
  }
}
connect()
$('say').onsubmit = (event) => {
  event.preventDefault()
  if ($('text').value === '' || socket.readyState !== WebSocket.OPEN) return // what is typed stays
  socket.send($('text').value)
  $('text').value = ''
}
</script>`

Worker.runAll()
