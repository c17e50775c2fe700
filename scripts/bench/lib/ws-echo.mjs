// The millrace server of the bench `websocket`, as a user writes it.
import { Worker } from 'millrace'

const worker = new Worker('websocket://127.0.0.1:0', { name: 'echo' })
worker.onMessage = (connection, message) => connection.send(message)
Worker.runAll()
