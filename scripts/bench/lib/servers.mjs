// The servers of benches: each starter takes a core and answers { pid, port, stop(), about? }.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CannotRun, here, launch, nextLine, root, sleep, startTimeOf, stop } from './bench.mjs'

const startFile = join(root, 'dist', 'start.js')
const bootMs = 15_000

/** A program that prints its port. */
export async function startPrinting(command, core) {
  const child = launch(command, { core })
  return { pid: child.pid, port: Number(await nextLine(child, bootMs)), stop: () => stop(child) }
}

/** A server on plain Node, a file beside this one. */
export function nodeServer(file, ...args) {
  return (core) => startPrinting([process.execPath, join(here, file), ...args], core)
}

/**
 * Through the real start file, as a user runs it: command, master and worker, all on the server's core.
 *
 * @param {string} name of the bench
 * @param {string} module the server, a file beside this one
 * @param {(port: number) => Promise<boolean>} answers whether a port serves: bound is not yet that
 */
export function millraceServer(name, module, answers) {
  return (core) => startMillrace({ name, module, answers }, core)
}

async function startMillrace(bench, core) {
  if (!existsSync(startFile)) throw new CannotRun('dist/start.js is missing: npm run build')
  const runDir = mkdtempSync(join(tmpdir(), 'millrace-bench-'))
  const child = launch([process.execPath, startFile, 'start', join(here, bench.module), '--run-dir', runDir], { core })
  const server = { pid: 0, port: 0, stop: () => stop(child) }
  process.once('exit', () => sweep(bench, server, runDir))
  return Object.assign(server, await untilUp(bench, child, runDir))
}

/** A worker that outlived its master would hold the port and the core; the start time tells it from a reused pid. */
function sweep(bench, server, runDir) {
  if (server.startTime !== undefined && startTimeOf(server.pid) === server.startTime) {
    process.stderr.write(`bench ${bench.name}: the worker ${server.pid} outlived its master; killed\n`)
    process.kill(server.pid, 'SIGKILL')
  }
  rmSync(runDir, { recursive: true, force: true })
}

async function untilUp(bench, child, runDir) {
  let ended
  child.ended.then((how) => {
    ended = how
  })
  for (const deadline = Date.now() + bootMs; Date.now() < deadline; await sleep(100)) {
    const found = readStatus(bench, runDir)
    if (found && (await bench.answers(found.port))) return found
    if (ended !== undefined) throw new Error(`millrace: start ended (${ended})\n${child.said}`)
  }
  throw new Error(`millrace: not up within ${bootMs} ms\n${child.said}`)
}

/** The worker's pid and port as `status --json` has them, or undefined while it is not up. */
function readStatus(bench, runDir) {
  const args = [startFile, 'status', join(here, bench.module), '--run-dir', runDir, '--json']
  const done = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: bootMs })
  if (done.status !== 0) return undefined
  const { engine, groups } = JSON.parse(done.stdout)
  const group = groups[0]
  const worker = group?.workers[0]
  const port = Number(/:(\d+)$/.exec(group?.address ?? '')?.[1] ?? 0)
  if (!worker?.pid || !port) return undefined
  return { pid: worker.pid, port, startTime: startTimeOf(worker.pid), about: { engine } }
}
