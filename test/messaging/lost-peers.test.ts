// Peers that die, drain, stop reading or lie: what senders are told, and that nobody else notices.

import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf } from '../../src/errors.ts'
import { Mesh } from '../../src/messaging/mesh.ts'
import { WorkerGroup } from '../../src/messaging/references.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { Status } from '../../src/process/status/status.ts'
import { drive, driveToThrow, startDriven } from '../support/driven.ts'
import { Host, rowOf } from '../support/mesh.ts'
import { inSandbox } from '../support/server.ts'
import { until, within } from '../support/until.ts'

const groups = `
  import { existsSync } from 'node:fs'
  Worker.stopTimeout = 0.5
  const frail = new Worker({ name: 'frail', drainTimeoutMs: 500, mailboxTimeoutMs: 300, maxMailboxBytes: 1_000_000 })
  let bytes = 0
  frail.onWorkerStart = () => (existsSync(new URL('./down', import.meta.url)) ? new Promise(() => setInterval(() => 0, 1e6)) : undefined)
  frail.onMessage = async (from, message, call) => {
    if (message === 'pid') return process.pid
    if (message === 'die') process.kill(process.pid, 'SIGKILL')
    if (message === 'leave') { Worker.stopAll(); await new Promise(() => setInterval(() => 0, 1e6)) }
    if (message === 'bytes') return bytes
    bytes += message.length
  }
  driver.onSendFail = (error, message) => (state.failed ??= []).push([error.code, error.mayHaveBeenHandled, message])
`

test('a group that is declared here, and that a reload has removed, has no workers', () => {
  const host = new Host()
  host.declared = () => 2
  const place = { fd: -1, address: '', secret: '', mailbox: 'here', rows: [], isEnding: false }
  const mesh = new Mesh(host, place, nodeEngine)
  try {
    const group = new WorkerGroup(
      'there',
      () => 'there',
      () => mesh,
    )
    assert.is(group.any().group, 'there') // not known yet
    mesh.use({ rows: [0, 1].map((id) => ({ ...rowOf(''), id, incarnation: -1 })), isEnding: false })
    for (const choose of [() => group.any(), () => group.by('key'), () => group.broadcast(1)])
      assert.throws(choose, /^group 'there' has no workers any more: newer code does not declare it$/)
  } finally {
    mesh.close()
  }
})

test('a peer that dies, leaves, does not come back, or stops reading', () =>
  inSandbox(async (box) => {
    const port = await startDriven(box, groups)
    const run = <T>(code: string) => drive<T>(port, code)
    const first = await run<number>(`return groups.frail.worker(0).request('pid')`)

    // Requests end at once, and say what is not known; the next one waits for the next process.
    const dies = await driveToThrow(port, `await groups.frail.worker(0).request('die')`)
    assert.equal([dies.error, dies.code, dies.may], ['PeerError', 'ERR_PEER_LOST', true])
    const second = await run<number>(`return groups.frail.worker(0).request('pid')`).catch(async () => {
      // On a busy machine it takes longer than a message may wait.
      await until(async () => isFrailUp(await box.status(), first), 20_000)
      return run<number>(`return groups.frail.worker(0).request('pid')`)
    })
    assert.is.not(second, first)
    const leaves = await driveToThrow(port, `await groups.frail.worker(0).request('leave')`)
    assert.equal([leaves.code, leaves.may], ['ERR_PEER_LOST', true])

    // Stops reading: what may be unsettled is bounded; and it all arrives when it reads again.
    const third = await until(() => run<number>(`return groups.frail.worker(0).request('pid')`).catch(() => 0), 20_000)
    process.kill(third, 'SIGSTOP')
    const full = await run<number>(`
      state.failed = []
      state.drained = new Promise((resolve) => { groups.frail.onWorkerBufferDrain = resolve })
      let count = 1
      while (groups.frail.worker(0).send('x'.repeat(10_000))) count++
      groups.frail.worker(0).send('x'.repeat(10_000))
      return count`)
    assert.ok(full >= 90 && full <= 101, String(full))
    assert.is((await run<unknown[]>(`return state.failed`)).length, 1)
    process.kill(third, 'SIGCONT')
    await run(`await state.drained`)
    assert.is(await run(`return groups.frail.worker(0).request('bytes')`), full * 10_000)

    // Does not come back: a message waits so long and no longer, and has not been handled.
    box.file('down', '')
    await driveToThrow(port, `await groups.frail.worker(0).request('die')`)
    await run(
      `state.failed = []; groups.frail.worker(0).send('waits'); while (state.failed.length === 0) await new Promise((resolve) => setTimeout(resolve, 5))`,
    )
    assert.equal(await run(`return state.failed`), [['ERR_PEER_LOST', false, 'waits']])
    const waits = await driveToThrow(port, `await groups.frail.worker(0).request('waits')`)
    assert.equal([waits.code, waits.may], ['ERR_PEER_LOST', false])
    assert.match(waits.message, /within 300 ms; it has not handled/)
    await box.stop()
  }))

test('a stranger at the socket is refused and counted, and disturbs nobody', () =>
  inSandbox(async (box) => {
    const port = await startDriven(box, groups)
    const pid = await drive<number>(port, `return groups.frail.worker(0).request('pid')`)
    const path = meshAddress(pid)
    const hello = Buffer.alloc(6 + 64 + 60, 1)
    hello.writeUInt32LE(hello.length - 4)
    hello.set([2, 0], 4)
    const lies = [Buffer.from('GET / HTTP/1.1\r\n\r\n'), hello, Buffer.alloc(6), Buffer.from([2, 0, 0, 0, 16, 0])]
    for (const lie of lies) assert.is(await whatBecomesOf(path, lie), 'closed')
    await until(async () => (await box.status()).totals.refused === lies.length)
    // Those that say nothing do not keep others out, however many they are.
    const silent = Array.from({ length: 100 }, () =>
      net
        .connect(path)
        .on('error', () => undefined)
        .resume(),
    )
    await until(() => silent.filter(({ closed }) => closed).length >= 30)
    assert.is(await drive<number>(port, `return groups.frail.worker(0).request('pid')`), pid)
    for (const socket of silent) socket.destroy()
    await box.stop()
  }))

/** There is another process than this one. */
function isFrailUp({ groups }: Status, before: number): boolean {
  const [worker] = groups.find(({ name }) => name === 'frail')?.workers ?? []
  return worker !== undefined && worker.pid !== before && worker.state === 'ready'
}

/** The abstract name that a process listens at. */
function meshAddress(pid: number): string {
  const inodes = readdirSync(`/proc/${pid}/fd`).map(
    (fd) => /socket:\[(\d+)\]/.exec(linkOf(`/proc/${pid}/fd/${fd}`))?.[1],
  )
  const lines = readFileSync('/proc/net/unix', 'latin1').split('\n')
  const found = lines.find((line) => / 01 +\d+ @millrace-/.test(line) && inodes.includes(line.split(/ +/)[6]))
  return `\0${/@(millrace-[0-9a-f]+)/.exec(found ?? '')?.[1]}`
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return '' // closed meanwhile
    throw error
  }
}

function whatBecomesOf(path: string, bytes: Buffer): Promise<string> {
  const socket = net.connect(path)
  socket
    .on('error', () => undefined)
    .on('data', () => socket.write(bytes))
    .resume()
  return within(10_000, new Promise((resolve) => socket.once('close', () => resolve('closed'))))
}

test.run()
