// The sockets of a server, in one process.

import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import type { BoundSocket } from '../../src/net/bound-socket.ts'
import type { Credentials, Declaration } from '../../src/process/group.ts'
import { Sockets } from '../../src/process/master/sockets.ts'

test('a file that lies where the Unix socket was is given to nobody', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-'))
  const path = join(folder, 'app.sock')
  const sockets = new Sockets()
  try {
    const declaration = { listen: `unix://${path}`, transport: 'tcp', credentials: null, backlog: 16 } as const
    const socket = await sockets.reserve(declaration as unknown as Declaration)
    if (socket === null) throw new Error('no socket')
    renameSync(path, `${path}.old`)
    writeFileSync(path, "somebody else's")
    const { uid } = statSync(path)
    sockets.giveTo({ uid: 12_345, gid: 12_345 } as Credentials, socket) // root could
    assert.is(statSync(path).uid, uid)
    sockets.closeAll()
    assert.is(statSync(path).uid, uid, 'nor is it removed')
  } finally {
    sockets.closeAll()
    rmSync(folder, { recursive: true })
  }
})

test('a Unix socket whose folder has become a file ends no server that looks for it, and stays', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-'))
  const path = join(folder, 'run/app.sock')
  const sockets = new Sockets()
  try {
    mkdirSync(join(folder, 'run'))
    const declaration = { listen: `unix://${path}`, transport: 'tcp', credentials: null, backlog: 16 } as const
    const socket = await sockets.reserve(declaration as unknown as Declaration)
    sockets.release()
    rmSync(join(folder, 'run'), { recursive: true })
    writeFileSync(join(folder, 'run'), '')
    sockets.tellMissing()
    assert.is(await sockets.reserve(declaration as unknown as Declaration), socket)
  } finally {
    sockets.closeAll()
    rmSync(folder, { recursive: true })
  }
})

const { sys } = addon()
if (sys !== null) {
  test('what is inherited when the master before is gone already is owned at once, its file too', async () => {
    for (const isOwner of [true, false]) {
      const folder = mkdtempSync(join(tmpdir(), 'mr-'))
      const path = join(folder, 'app.sock')
      const [old, next] = [new Sockets(), new Sockets()]
      try {
        const declaration = { listen: `unix://${path}`, transport: 'tcp', credentials: null, backlog: 16 } as const
        await old.reserve(declaration as unknown as Declaration)
        if (isOwner) next.own()
        for (const [{ fd }, entry] of old.list()) next.inherit({ ...entry, fd: sys.duplicate(fd).release() })
        next.closeAll()
        assert.is(existsSync(path), !isOwner)
      } finally {
        old.closeAll()
        rmSync(folder, { recursive: true })
      }
    }
  })

  if (process.geteuid?.() === 0) {
    test('a Unix socket of a master that leads keeps its owner until the next one does', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'mr-'))
      const path = join(folder, 'app.sock')
      const [old, next] = [new Sockets(), new Sockets()]
      try {
        const user = (uid: number): Credentials => ({ user: null, uid, gid: uid })
        const as = (uid: number) =>
          ({
            listen: `unix://${path}`,
            transport: 'unix',
            backlog: 16,
            credentials: user(uid),
          }) as unknown as Declaration
        await old.reserve(as(12_345))
        for (const [{ fd }, entry] of old.list()) next.inherit({ ...entry, fd: sys.duplicate(fd).release() })
        const socket = (await next.reserve(as(23_456))) as BoundSocket
        next.giveTo(user(34_567), socket)
        assert.is(statSync(path).uid, 12_345)
        old.lend()
        next.own()
        assert.is(statSync(path).uid, 34_567)
        next.giveTo(user(23_456), socket)
        assert.is(statSync(path).uid, 23_456)
      } finally {
        next.closeAll()
        old.closeAll()
        rmSync(folder, { recursive: true })
      }
    })
  }
}

test.run()
