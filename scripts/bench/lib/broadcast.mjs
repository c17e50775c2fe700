// The millrace server of the bench `broadcast`: every message goes to all connections. LISTEN is its address.
import { broadcast, Worker } from 'millrace'

const worker = new Worker(process.env.LISTEN, { name: 'broadcast' })
worker.onMessage = (_connection, message) => broadcast(worker.connections.values(), message)
Worker.runAll()
