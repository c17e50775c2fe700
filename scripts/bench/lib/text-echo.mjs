// The text bench's millrace server: a line echo as a user writes it. Its port is in `status --json`.
import { Worker } from 'millrace'

const worker = new Worker('text://127.0.0.1:0', { name: 'text-echo', count: 1 })
worker.onMessage = (connection, line) => connection.send(line)
Worker.runAll()
