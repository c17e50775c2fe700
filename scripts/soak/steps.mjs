// The steps of a soak. Each runs to its end and throws if the outcome is not as it should be.

import { setTimeout as sleep } from 'node:timers/promises'

const BROKEN = ['const = 1', `throw new Error('planted')`, `web.onWorkerStart = () => { throw new Error('planted') }`]
/** Longer than a heartbeat, shorter than a drain. */
const LONGEST_STOP_MS = 1200

/** @type {{ name: string, needs?: string, act(server: object): Promise<void> }[]} `needs` is a command or flag in the help */
export const STEPS = [
  { name: 'reload', act: (server) => reload(server) },
  { name: 'reload with another count', act: (server) => reload(server, { count: 1 + server.random(4) }) },
  { name: 'reload with a group more', act: (server) => reload(server, { more: `new Worker({ name: 'other' })` }) },
  { name: 'reload --canary', needs: '--canary', act: (server) => reload(server, {}, '--canary-ms', '1500') },
  { name: 'two reloads at once', act: twoReloads },
  { name: 'reload of broken code', act: brokenReload },
  { name: 'kill -9 of a worker', act: kill },
  { name: 'SIGSTOP of a worker', act: suspend },
  { name: 'kill -9 during a reload', act: killInReload },
  { name: 'status and connections', act: look },
  { name: 'scale', needs: '\n  scale', act: scale },
  { name: 'upgrade', needs: '\n  upgrade', act: upgrade },
]

async function run(box, ...args) {
  const outcome = await box.begin(...args).ended
  if (outcome.code === 0) return outcome.stdout
  throw new Error(`${args.join(' ')}: exit ${outcome.code ?? outcome.signal}: ${outcome.stderr}${outcome.stdout}`)
}

/** Applies `change` to the program and leaves the rest as it was. */
export async function reload({ box, write, shape }, change = {}, ...flags) {
  write({ ...change, version: shape.version + 1 })
  const { slots } = JSON.parse(await run(box, 'reload', '--json', ...flags))
  const odd = slots.filter(({ result, note }) => result === 'failed' || /killed/.test(note))
  if (odd.length > 0) throw new Error(`a reload with ${JSON.stringify(odd)}`)
}

async function twoReloads(server) {
  server.write({ version: server.shape.version + 1 })
  await Promise.all([run(server.box, 'reload'), run(server.box, 'reload')])
}

async function brokenReload({ box, write, random, shape }) {
  write({ more: BROKEN[random(BROKEN.length)], version: shape.version + 1 })
  const { code, stderr } = await box.begin('reload').ended
  write()
  if (code !== 6) throw new Error(`a reload of broken code: exit ${code}: ${stderr}`)
}

async function workers({ box, workersOf }) {
  return workersOf(await box.status()).filter(({ pid }) => pid > 0)
}

async function oneWorker(server) {
  const all = await workers(server)
  return all[server.random(all.length)].pid
}

async function kill(server) {
  const pid = await oneWorker(server)
  server.crowd.kills(pid)
  process.kill(pid, 'SIGKILL')
}

async function suspend(server) {
  const pid = await oneWorker(server)
  process.kill(pid, 'SIGSTOP')
  await sleep(server.random(LONGEST_STOP_MS))
  process.kill(pid, 'SIGCONT')
}

/**
 * Kills any process alive at that moment: an old one, a new one, one that drains. The reload may be aborted because of
 * it.
 */
async function killInReload(server) {
  const { box, write, shape, random } = server
  write({ version: shape.version + 1 })
  const reloading = box.begin('reload')
  await sleep(random(1500))
  await kill(server).catch((error) => {
    if (error.code !== 'ESRCH') throw error // it ended before the signal
  })
  const { code, stderr } = await reloading.ended
  if (code !== 0 && !/SIGKILL/.test(stderr)) throw new Error(`a reload: exit ${code}: ${stderr}`)
}

async function look({ box }) {
  await Promise.all([run(box, 'status'), run(box, 'status', '--json'), run(box, 'connections', '--json')])
}

/** Scales there and back: a changed count would outlast the following reloads. */
async function scale({ box, random }) {
  await run(box, 'scale', 'web', String(1 + random(4)))
  await run(box, 'scale', 'web', 'declared')
}

async function upgrade(server) {
  await run(server.box, 'upgrade')
  server.master = (await server.box.status()).pid
}
