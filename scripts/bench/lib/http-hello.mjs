// The millrace server of the bench `http`, as a user writes it.
import { Worker } from 'millrace'

const worker = new Worker('http://127.0.0.1:0', { name: 'hello' })
worker.onMessage = (connection, request) => {
  if (request.path === '/') connection.send('hello world!')
  else connection.send({ path: request.path })
}
Worker.runAll()
