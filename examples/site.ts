// One port: a page, an upload with its progress, and a chat over WebSocket. Open http://127.0.0.1:8888/ in two windows.
// Uploads need a parser: npm install @fastify/busboy

import { broadcast, http, Response, Worker, websocket } from 'millrace'

const protocol = http({ uploads: {}, websocket: websocket({ compression: true }) })
const site = new Worker('http://127.0.0.1:8888', { name: 'site', protocol })

site.onWebSocketConnected = (connection, request) => {
  const name = String(request?.get('name', 'somebody')).slice(0, 20)
  connection.onMessage = (_connection, text) => everybody(`${name}: ${text}`)
  connection.onClose = () => everybody(`${name} has left`)
  everybody(`${name} has come`)
}

site.onMessage = (connection, request) => {
  if (typeof request === 'string' || request instanceof Uint8Array) return // a WebSocket's: it has its own handler
  if (request.path === '/') return connection.send(page)
  if (request.path === '/favicon.ico') return connection.send(new Response(204))
  if (request.path === '/upload' && request.method === 'POST') {
    const file = request.file('file')
    return connection.send({ name: file?.name, size: file?.size }) // file.move(...) would keep it
  }
  connection.send(new Response(404, { 'Content-Type': 'text/plain' }, 'not here\n'))
}

/** A client that reads too slowly misses a line, instead of costing everybody memory. */
function everybody(line: string): void {
  const sockets = [...site.connections.values()].filter(({ protocol }) => protocol.name === 'websocket')
  broadcast(sockets, line, { slow: 'drop' })
}

const page = `<!doctype html><meta charset=utf-8><meta name=viewport content="width=device-width"><title>millrace</title>
<style>body { font: 16px/1.5 system-ui; max-width: 40em; margin: 2em auto; padding: 0 1em }
progress { width: 100% } #lines { border: 1px solid #ccc; padding: .5em; height: 12em; overflow: auto; white-space: pre-wrap }
#say { display: flex; gap: .5em; margin-top: .5em } #text { flex: 1; font: inherit }</style>
<h1>One port</h1>
<h2>Upload</h2>
<input type=file id=file aria-label="a file"> <progress id=bar value=0 max=1></progress> <span id=result></span>
<h2>Chat</h2>
<div id=lines></div>
<form id=say><input id=text autocomplete=off aria-label="say something" placeholder="say something"> <button>Send</button></form>
<script type=module>
const $ = (id) => document.getElementById(id)
$('file').onchange = () => {
  const [file] = $('file').files
  if (file === undefined) return
  const form = new FormData()
  form.set('file', file)
  const request = new XMLHttpRequest()
  request.upload.onprogress = ({ loaded, total }) => { $('bar').value = loaded / total }
  request.onload = () => { $('result').textContent = request.responseText }
  request.onerror = () => { $('result').textContent = 'failed' }
  request.open('POST', '/upload')
  request.send(form)
}
const show = (line) => { $('lines').append(line + '\\n'); $('lines').scrollTop = 1e9 }
const guest = 'guest' + Math.floor(Math.random() * 100)
let socket
let wait = 100
// A reload of the server says goodbye with 1012: at another process everybody is welcome again.
function connect() {
  socket = new WebSocket(location.origin.replace('http', 'ws') + '/chat?name=' + guest)
  socket.onopen = () => { wait = 100 }
  socket.onmessage = ({ data }) => show(data)
  socket.onclose = ({ code }) => {
    if (wait === 100) show('closed (' + code + '), connecting again...')
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
</script>
`
Worker.runAll()
