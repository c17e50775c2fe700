// The servers of the bench `reload`, and the step that is repeated on them: ours by its own commands, and pm2 if it is
// installed (on PATH, or by `npm install --prefix build/bench/pm2 --ignore-scripts pm2`), as in its documentation:
// cluster mode, `wait_ready`, SIGINT closes the server.
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { root, sum } from './bench.mjs'

const run = promisify(execFile)
const startFile = join(root, 'dist', 'start.js')

export const drainTimeoutMs = 2000 // the default is 30 s: a closed loop is never quiet, and would use all of it

const PROGRAMS = {
  text: `worker.onMessage = (connection, line) => connection.send(line)`,
  http: `worker.onMessage = (connection) => connection.send('hello world!')`,
}

/**
 * A port that is the same after a restart, unlike port 0. Below the range that the kernel gives to clients (ip(7),
 * ip_local_port_range): a client that reconnects while nothing listens could get this very port and be connected to
 * itself.
 */
function portOf(place) {
  return 20_000 + ((process.pid + place) % 12_000)
}

/** Our server, in a folder of its own, since its module is imported as a user's is. */
async function startOurs(scheme, { workers }) {
  const directory = mkdtempSync(join(root, 'build', 'bench-reload-'))
  const runDir = mkdtempSync(join(tmpdir(), 'bench-reload-'))
  const module = join(directory, 'app.mjs')
  const env = { ...process.env, MILLRACE_RUN_DIR: runDir }
  const port = portOf(0)
  writeFileSync(
    module,
    `import { Worker } from 'millrace'
    const settings = { name: 'bench', count: ${workers}, drainTimeoutMs: ${drainTimeoutMs} }
    const worker = new Worker('${scheme}://127.0.0.1:${port}', settings)
    ${PROGRAMS[scheme]}
    Worker.runAll()`,
  )
  const command = async (...args) => (await run(process.execPath, [startFile, ...args], { env, cwd: root })).stdout
  await command('start', '-d', module)
  const end = async () => {
    await command('stop').catch((error) => process.stderr.write(`${error.message}\n`))
    for (const path of [directory, runDir]) rmSync(path, { recursive: true, force: true })
  }
  return { port, module, command, end }
}

async function reloaded(scheme, plan) {
  const { port, command, end } = await startOurs(scheme, plan)
  const step = async () => {
    const { slots } = JSON.parse(await command('reload', '--json'))
    return { readyMs: slots.map((slot) => slot.readyMs), discarded: sum(slots.map((slot) => slot.discarded)) }
  }
  return { port, step, end }
}

async function restarted(scheme, plan) {
  const { port, module, command, end } = await startOurs(scheme, plan)
  const step = async () => {
    await command('stop')
    await command('start', '-d', module)
    return { readyMs: [], discarded: 0 }
  }
  return { port, step, end }
}

const PM2_APP = `
const { createServer } = require('node:http')
const server = createServer((_request, response) => response.end('hello world!'))
server.listen(Number(process.env.PORT), '127.0.0.1', () => process.send('ready'))
process.on('SIGINT', () => server.close(() => process.exit(0)))
`

function findPm2() {
  const folders = [join(root, 'build', 'bench', 'pm2', 'node_modules', '.bin'), ...process.env.PATH.split(delimiter)]
  return folders.map((folder) => join(folder, 'pm2')).find(existsSync)
}

async function pm2(_scheme, { workers }) {
  const program = findPm2()
  if (program === undefined) return { why: 'pm2 is not installed' }
  const directory = mkdtempSync(join(tmpdir(), 'bench-pm2-'))
  const app = join(directory, 'app.cjs')
  const port = portOf(1)
  const env = { ...process.env, PM2_HOME: join(directory, 'home'), PORT: String(port) }
  writeFileSync(app, PM2_APP)
  const command = async (...args) => (await run(program, args, { env, cwd: directory })).stdout
  const end = async () => {
    await command('kill').catch((error) => process.stderr.write(`${error.message}\n`))
    rmSync(directory, { recursive: true, force: true })
  }
  await command(
    'start',
    app,
    '--name',
    'bench',
    '-i',
    String(workers),
    '--wait-ready',
    '--kill-timeout',
    String(drainTimeoutMs),
  )
  const version = (await command('--version')).trim().split('\n').at(-1)
  const step = async () => {
    await command('reload', 'bench')
    return { readyMs: [], discarded: 0 }
  }
  return { port, step, end, version }
}

/** What is measured: the protocol of the load, and how the server is started that `step` is applied to. */
export const WAYS = {
  reload: { scheme: 'text', start: reloaded },
  'stop + start -d': { scheme: 'text', start: restarted },
  'reload, http': { scheme: 'http', start: reloaded },
  'pm2 reload, http': { scheme: 'http', start: pm2 },
}
