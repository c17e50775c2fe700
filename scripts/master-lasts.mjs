// Checks whether a master grows: what its heap holds after a garbage collection, and its descriptors, before and after
// a given number of worker restarts and reloads.
//
//   node scripts/master-lasts.mjs [restarts] [reloads]     1000 1000; 0 leaves one out
//
// It asks V8 itself, through the master's inspector: the resident set of a process says little below 20 MB. The master
// runs without optimizing compilers and keeps its bytecode. With them, heap snapshots after 200 and 600 restarts showed
// 0.2 to 12 KB per restart of compiled code and its tables, in steps and at random, and not one object of ours: a leak
// would have been lost in that.

import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import WebSocket from 'ws'
import { root } from './files.mjs'

const start = join(root, 'dist/start.js')
/** Processes ended at once. One that has served for less than a second is not replaced immediately. */
const WORKERS = 16
const SERVED_MS = 1100
/**
 * Of each kind before the first measurement: until code is compiled, pools are full, and so is the list of the last 200
 * events.
 */
const WARM_UP = 4 * WORKERS
const FLAGS = ['--no-opt', '--no-sparkplug', '--no-flush-bytecode']
/** Opens the inspector of the master, and of no other process that gets the flags of the command line. */
const OPEN = `import inspector from 'node:inspector'; if (process.argv[2] === 'start') inspector.open(0)`
const PATIENCE_MS = 60_000

const program = (count) => `
  import { Worker } from 'millrace'
  const worker = new Worker('text://127.0.0.1:0', { name: 'w', count: ${count}, reusePort: ${count > 1} })
  worker.onMessage = (connection, line) => connection.send(line)
  Worker.runAll()
`

/** Runs one server in the foreground and passes it to `use`. */
async function withServer(count, use) {
  mkdirSync(join(root, 'build/tmp'), { recursive: true })
  const folder = mkdtempSync(join(root, 'build/tmp/lasts-'))
  const runDir = mkdtempSync(join(tmpdir(), 'mr-'))
  const module = join(folder, 'app.js')
  writeFileSync(module, program(count))
  const env = { ...process.env, MILLRACE_RUN_DIR: runDir }
  const args = [...FLAGS, '--import', `data:text/javascript,${OPEN}`, start, 'start', '-q', module]
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    said = (said + text).slice(-100_000)
  })
  const command = (request) => ask(join(runDir, 'control.sock'), request)
  try {
    await until(async () => (await command({ command: 'status' }))?.status?.state === 'running')
    const [url] = await until(() => /ws:\/\/127\.0\.0\.1:\d+\/[\w-]+/.exec(said))
    const inspector = await Inspector.open(url)
    const status = async () => (await command({ command: 'status' })).status
    const result = await use({ command, inspector, status, pid: child.pid })
    inspector.close()
    return result
  } catch (error) {
    throw new Error(`${error.message}\n${said}`, { cause: error })
  } finally {
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    if (child.exitCode === null) await ended
    rmSync(folder, { recursive: true, force: true })
    rmSync(runDir, { recursive: true, force: true })
  }
}

class Inspector {
  #socket
  #waiting = new Map()
  #last = 0

  static async open(url) {
    const socket = new WebSocket(url)
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
    return new Inspector(socket)
  }

  constructor(socket) {
    this.#socket = socket
    socket.on('message', (text) => {
      const { id, result } = JSON.parse(text)
      this.#waiting.get(id)?.(result)
      this.#waiting.delete(id)
    })
  }

  ask(method) {
    const id = ++this.#last
    this.#socket.send(JSON.stringify({ id, method }))
    return new Promise((resolve) => this.#waiting.set(id, resolve))
  }

  close() {
    this.#socket.terminate()
  }
}

/** What a process holds when nothing is in progress. */
async function look({ inspector, pid }) {
  for (let turn = 0; turn < 3; turn++) await inspector.ask('HeapProfiler.collectGarbage') // again for what finalizers free
  const { usedSize } = await inspector.ask('Runtime.getHeapUsage')
  return { heapBytes: usedSize, descriptors: readdirSync(`/proc/${pid}/fd`).length }
}

/** What `times` steps add, after a warm-up. */
async function grow(server, times, step) {
  await repeat(WARM_UP, step)
  const before = await look(server)
  const began = performance.now()
  const done = await repeat(times, step)
  const after = await look(server)
  return {
    times: done,
    seconds: Math.round((performance.now() - began) / 1000),
    heapBytes: after.heapBytes - before.heapBytes,
    bytesEach: Math.round((after.heapBytes - before.heapBytes) / done),
    descriptors: after.descriptors - before.descriptors,
  }
}

async function repeat(times, step) {
  let done = 0
  while (done < times) done += await step()
  return done
}

/** Ends all workers and waits for their successors. */
async function restartAll({ status }) {
  const { workers } = (await status()).groups[0]
  for (const { pid } of workers) process.kill(pid, 'SIGTERM')
  const old = new Set(workers.map(({ pid }) => pid))
  await until(async () => {
    const now = (await status()).groups[0].workers
    const isNew = ({ pid, state, uptimeMs }) => !old.has(pid) && state === 'ready' && uptimeMs > SERVED_MS
    return now.length === workers.length && now.every(isNew)
  })
  return workers.length
}

async function reload({ command }) {
  const { outcome } = await command({ command: 'reload' })
  if (outcome.exitCode !== 0) throw new Error(`reload: ${outcome.reason}`)
  return 1
}

const PHASES = {
  restarts: (times) => withServer(WORKERS, (server) => grow(server, times, () => restartAll(server))),
  reloads: (times) => withServer(1, (server) => grow(server, times, () => reload(server))),
}

/** More than this per step is a leak: a retained worker handle is about 10 KB, an event 500 bytes. */
const MOST_BYTES_EACH = 250

/** Sends what a command would, without the time a process takes to start; null while nothing answers. */
function ask(path, request) {
  return new Promise((resolve) => {
    const socket = net.connect(path)
    let said = ''
    const settle = () => resolve(said.endsWith('\n') ? JSON.parse(said) : null)
    socket.setEncoding('utf8').on('data', (text) => {
      said += text
    })
    socket.once('error', () => resolve(null)).once('end', settle)
    socket.write(`${JSON.stringify(request)}\n`)
  })
}

async function until(condition) {
  const deadline = performance.now() + PATIENCE_MS
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() > deadline) throw new Error(`still waiting for ${condition}`)
    await sleep(20)
  }
}

const [restarts = 1000, reloads = 1000] = process.argv.slice(2).map(Number)
for (const [phase, times] of Object.entries({ restarts, reloads })) {
  if (times === 0) continue
  const growth = await PHASES[phase](times)
  console.log(phase, growth)
  if (growth.bytesEach > MOST_BYTES_EACH || growth.descriptors > 0) process.exitCode = 1
}
