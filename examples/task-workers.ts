// Workers that send each other messages by number, the second program that this package was made for: two UploadWorkers
// each send 'Upload message' to a random TaskWorker every second and print its reply. The TaskWorkers also listen on
// TCP:
//
//   node dist/start.js start dist/examples/task-workers.js
//   printf 'hello' | nc -q 1 127.0.0.1 5678

import { Connection, Timer, Worker } from 'millrace'

const tasks = new Worker({ name: 'TaskWorker', count: 4 })
const uploads = new Worker({ name: 'UploadWorker', count: 2 })

tasks.onWorkerStart = () => tasks.listen('tcp://127.0.0.1:5678')

// From a worker or a client: either can be answered.
tasks.onMessage = (from, message) => {
  const sender = from instanceof Connection ? 'a client' : 'a worker'
  from.send(`TaskWorker ${tasks.id} got '${message}' from ${sender}`)
}

uploads.onWorkerStart = () => {
  Timer.add(1, () => {
    const id = Math.floor(Math.random() * tasks.count)
    tasks.getWorkerById(id).send('Upload message')
  })
}

uploads.onMessage = (_from, reply) => console.log(`UploadWorker ${uploads.id}: ${reply}`)

Worker.runAll()
