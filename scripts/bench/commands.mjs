// The bench `commands`: how long read-only commands take, with all workers healthy and with one whose event loop hangs.
// Over the control socket (the master's part), and as a whole command from spawn to exit (for `events`: to its first
// line). One JSON line on stdout, a table on stderr. Method: README.md.
//
// usage: node scripts/bench/commands.mjs [--workers 4] [--runs 40]
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildTests } from '../build-tests.mjs'
import { environment, root, runBench, table, writeResults } from './lib/bench.mjs'

const REQUESTS = {
  status: { command: 'status' },
  connections: { command: 'connections' },
  diff: { command: 'diff' },
  events: { command: 'events', past: 10 },
}

function readOptions() {
  const { values } = parseArgs({
    options: { workers: { type: 'string', default: '4' }, runs: { type: 'string', default: '40' } },
  })
  return { workers: Number(values.workers), runs: Number(values.runs) }
}

/** Resolves with the first line. */
async function ask(path, request) {
  const socket = net.connect(path)
  socket.write(`${JSON.stringify(request)}\n`)
  let said = ''
  socket.setEncoding('utf8')
  for await (const text of socket) {
    said += text
    if (said.includes('\n')) break
  }
  socket.destroy()
  return JSON.parse(said.slice(0, said.indexOf('\n')))
}

/**
 * Node 20 reads all certificates of NODE_EXTRA_CA_CERTS at its start, 70 ms in each process: that is the machine's
 * set-up, not our cost.
 */
delete process.env.NODE_EXTRA_CA_CERTS

async function whole(args, env, endsItself) {
  const child = spawn(process.execPath, [join(root, 'dist/start.js'), ...args], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (endsItself) return once(child.stdout.resume(), 'close')
  await once(child.stdout, 'data')
  const ended = once(child, 'close')
  child.kill('SIGKILL')
  return ended
}

/** Runs `step` repeatedly. Returns the milliseconds until each returned promise resolves. */
async function time(runs, step) {
  const times = []
  for (let run = 0; run < runs; run++) {
    const began = performance.now()
    await step()
    times.push(performance.now() - began)
  }
  times.sort((a, b) => a - b)
  const at = (share) => Number(times[Math.min(runs - 1, Math.floor(share * runs))].toFixed(1))
  return { p50: at(0.5), p99: at(0.99) }
}

async function measureAll(box, module, runDir, runs) {
  const rows = {}
  for (const [name, request] of Object.entries(REQUESTS)) {
    const asked = await time(runs, () => ask(join(runDir, 'control.sock'), request))
    const args = [name, ...(name === 'events' ? ['-n', '10'] : []), module]
    const command = await time(runs, () => whole(args, box.env, name !== 'events'))
    rows[name] = { asked, command }
  }
  return rows
}

async function main() {
  const plan = readOptions()
  await buildTests()
  const { inSandbox, portOf } = await import(join(root, 'build/test/support/server.js'))
  const { until } = await import(join(root, 'build/test/support/until.js'))
  const cases = {}
  await inSandbox(async (box) => {
    const module = box.file(
      'app.js',
      `import { Worker } from 'millrace'
      const worker = new Worker('text://127.0.0.1:0', { name: 'w', count: ${plan.workers}, drainTimeoutMs: 200 })
      worker.onMessage = (connection, line) => { if (line === 'hang') for (;;); connection.send(line) }
      Worker.runAll()`,
    )
    const status = await box.start(module)
    cases.well = await measureAll(box, module, status.runDir, plan.runs)
    net
      .connect(portOf(status), '127.0.0.1')
      .on('error', () => undefined)
      .write('hang\n')
    await until(async () => (await box.status()).groups[0].workers.some(({ state }) => state === 'hung'))
    cases.hung = await measureAll(box, module, status.runDir, plan.runs)
    await box.stop()
  })
  const row = { bench: 'commands', ...plan, unit: 'ms', ...cases, ...environment() }
  console.log(JSON.stringify(row))
  const file = writeResults('commands', { command: process.argv.slice(1), plan, rows: [row] })
  const cells = Object.entries(cases).flatMap(([workers, rows]) =>
    Object.entries(rows).map(([name, { asked, command }]) => [
      workers,
      name,
      ...[asked.p50, asked.p99, command.p50, command.p99].map(String),
    ]),
  )
  process.stderr.write(
    `${table([['workers', 'command', 'asked p50 ms', 'p99', 'command p50 ms', 'p99'], ...cells])}\n${file}\n`,
  )
}

await runBench('commands', main)
