// The millrace server of the bench `idle`: an echo that reports its memory usage on request. LISTEN is its address.
import { Worker } from 'millrace'
import { memory } from './memory.mjs'

const worker = new Worker(process.env.LISTEN, { name: 'idle', execArgv: ['--expose-gc'] })
worker.onMessage = (connection, message) => connection.send(message === 'memory' ? memory() : message)
Worker.runAll()
