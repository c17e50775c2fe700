// The keeper of shared data as its masters see it: a real keeper, and one or two masters' handles in this process.

import { mkdtempSync, realpathSync, rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { sendLogTo } from '../../src/log.ts'
import { isAlive, startTimeOf } from '../../src/process/identity.ts'
import { KeeperHandle } from '../../src/process/master/keeper-handle.ts'
import type { Output } from '../../src/process/output/output.ts'
import { type Child, ownProgram } from '../../src/process/spawn.ts'
import type { InheritedKeeper } from '../../src/process/upgrade/inheritance.ts'
import { until, within } from '../support/until.ts'

const children: Child[] = []
const output = {
  isLogPiped: false,
  stdio: ['ignore', 'inherit', 'inherit'],
  attach: (child: Child) => children.push(child),
} as unknown as Output

async function inRunDir(
  use: (
    handle: (earlier?: InheritedKeeper) => KeeperHandle,
    connect: (of: KeeperHandle) => Promise<Socket>,
    path: string,
  ) => unknown,
): Promise<void> {
  const runDir = realpathSync(mkdtempSync(join(tmpdir(), 'mr-')))
  const handles: KeeperHandle[] = []
  const sockets: Socket[] = []
  const handle = (earlier?: InheritedKeeper) => {
    handles.push(new KeeperHandle(runDir, output, ownProgram, () => undefined, earlier))
    return handles.at(-1) as KeeperHandle
  }
  const connect = async (of: KeeperHandle) => {
    const socket = await within(10_000, of.connect())
    sockets.push(socket.on('error', () => socket.destroy()))
    return socket
  }
  const starter = () => handles.find(({ hasStarted }) => hasStarted) ?? handles[0]
  const pids = () => handles.map(({ pid }) => pid).filter((pid) => pid > 0)
  try {
    await use(handle, connect, join(runDir, 'keeper.sock'))
    assert.ok(new Set(pids()).size <= 1, 'there is one')
    for (const socket of sockets) socket.destroy()
    const all = pids().map((pid) => ({ pid, startTime: startTimeOf(pid) }))
    const holders = handles.filter((one) => one !== starter())
    for (const one of holders) await within(5000, one.end(false))
    await within(5000, (starter() as KeeperHandle).end(true))
    await until(() => !all.some(isAlive))
  } finally {
    for (const pid of pids()) process.kill(pid, 'SIGKILL')
    rmSync(runDir, { recursive: true })
  }
}

test('its end is told also when the process has just gone by itself', async () => {
  await inRunDir(async (handle, connect) => {
    const keeper = handle()
    await connect(keeper)
    const child = children.at(-1)?.process
    const ended = new Promise<void>((resolve, reject) => {
      child?.once('exit', () => keeper.end(true).then(resolve, reject)) // its last words are still to be read
    })
    child?.kill('SIGKILL')
    await within(5000, ended)
  })
})

test('two masters have one keeper, whoever starts it, whenever that is', async () => {
  await inRunDir(async (handle, connect) => {
    const old = handle()
    const next = handle(old.inheritance) // before anybody has asked
    await connect(old)
    await connect(next)
    await next.rejoin()
    const latest = handle(next.inheritance)
    await connect(latest)
    await until(() => latest.pid === old.pid || latest.pid === 0) // without the addon nobody knows which process it is
  })
  await inRunDir(async (handle, connect) => {
    const old = handle()
    const next = handle(old.inheritance)
    await connect(next)
    await connect(old)
  })
  await inRunDir(async (handle, connect) => {
    const old = handle()
    const next = handle(old.inheritance)
    await Promise.all([connect(next), connect(old)])
  })
})

test('a master that inherits a keeper whose socket is gone reaches it all the same, or says what is lost', async () => {
  const lines: string[] = []
  await inRunDir(async (handle, connect, path) => {
    const old = handle()
    await connect(old)
    rmSync(path)
    const heir = handle(old.inheritance)
    await connect(heir)
    assert.is(heir.pid, old.pid)
    rmSync(path)
    assert.ok(await heir.renew())
    await connect(old)
  })
  sendLogTo((line) => lines.push(line))
  await inRunDir(async (handle, connect) => {
    await connect(handle({ identity: { pid: 2 ** 30, startTime: '1' }, secret: 'x' }))
  }).finally(() => sendLogTo(null))
  assert.match(lines[0] ?? '', /^keeper of shared data pid \d+: out of reach\. What it kept is lost$/)
})

test('a call that comes after its death and before the report of that starts another one', async () => {
  for (const asks of ['starter', 'joiner'] as const)
    await inRunDir(async (handle, connect) => {
      const starter = handle()
      await connect(starter)
      const joiner = handle(starter.inheritance)
      await connect(joiner)
      const { pid } = starter
      const keeper = { pid, startTime: startTimeOf(pid) }
      process.kill(pid, 'SIGKILL')
      while (isAlive(keeper)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1) // this process hears of nothing
      await connect(asks === 'starter' ? starter : joiner)
    })
})

test.run()
