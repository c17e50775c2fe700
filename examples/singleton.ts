// A program that reloads although part of it may exist only once: a job that one process does for all. During a reload
// the old and the new process of a slot run side by side; `onWorkerRetire` of the old one has settled before
// `onWorkerActive` of the new one is called, so the job is never done twice at a time, and never left undone for long.
//
//   node dist/start.js start -d dist/examples/singleton.js
//   printf 'hi\n' | nc -q 1 127.0.0.1 8888
//   (change VERSION) node dist/start.js reload dist/examples/singleton.js

import { Timer, Worker } from 'millrace'

const VERSION = 1

const worker = new Worker('text://127.0.0.1:8888', { name: 'app', count: 2 })
let job = 0

worker.onMessage = (connection, line) => connection.send(`version ${VERSION}: ${line}`)

worker.onWorkerActive = () => {
  if (worker.id !== 0) return // only one of the slots has the job
  job = Timer.add(0.5, () => Worker.log(`job of version ${VERSION}, process ${worker.incarnation}`))
}

worker.onWorkerRetire = async () => {
  Timer.del(job)
  await Timer.sleep(0.05) // release the lock, commit the offset, flush: the next process waits for this
}

Worker.runAll()
