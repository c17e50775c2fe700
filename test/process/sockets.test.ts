// The sockets of a server, in one process.

import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import type { Sys } from '../../src/addon-types.ts'
import { type BoundSocket, fileId } from '../../src/net/bound-socket.ts'
import type { Declaration } from '../../src/process/group.ts'
import { Sockets } from '../../src/process/master/sockets.ts'
import type { Credentials } from '../../src/rights.ts'
import { caseTest } from '../support/length.ts'
import { rejects } from '../support/until.ts'

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

test('a Unix socket that is not at its path any more is followed by one that is, and not passed on', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-'))
  const path = join(folder, 'app.sock')
  const sockets = new Sockets()
  try {
    const declaration = { listen: `unix://${path}`, transport: 'tcp', credentials: null, backlog: 16 } as const
    const reserve = async (own: BoundSocket[]) => {
      const socket = await sockets.reserve(declaration as unknown as Declaration, own)
      sockets.release()
      return socket as BoundSocket
    }
    const first = await reserve([])
    rmSync(path)
    writeFileSync(path, '')
    const refused = await rejects(reserve([first]), 'EADDRINUSE')
    assert.match(refused.message, /: something else has taken its path from this server$/)
    assert.equal(sockets.list(), [])
    rmSync(path)
    const second = await reserve([first])
    assert.is(await reserve([first]), second)
    assert.equal(
      sockets.list().map(([socket]) => socket),
      [second],
    )
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

if (process.geteuid?.() === 0) {
  const [ALICE, BOB] = [12_345, 23_456]
  const user = (uid: number): Credentials => ({ user: null, uid, gid: uid })

  /** A folder with one of root's and one of Alice's in it; the Sockets are closed at the end. */
  async function withFolders(use: (sockets: Sockets, roots: string, alices: string) => unknown): Promise<void> {
    const folder = mkdtempSync(join(tmpdir(), 'mr-'))
    chmodSync(folder, 0o755)
    const [roots, alices] = [join(folder, 'roots'), join(folder, 'alices')]
    const sockets = new Sockets()
    sockets.own()
    try {
      for (const path of [roots, alices]) mkdirSync(path, { mode: 0o755 })
      chownSync(alices, ALICE, ALICE)
      await use(sockets, roots, alices)
    } finally {
      sockets.closeAll()
      rmSync(folder, { recursive: true })
    }
  }

  function declaration(path: string, uid: number): Declaration {
    const credentials = uid === 0 ? null : user(uid)
    return { listen: `unix://${path}`, transport: 'unix', backlog: 16, credentials } as unknown as Declaration
  }

  async function bind(sockets: Sockets, path: string, uid: number): Promise<BoundSocket> {
    return (await sockets.reserve(declaration(path, uid))) as BoundSocket
  }

  test('a declared socket is made in a folder of root for a user who may not write there, and follows its user', () =>
    withFolders(async (sockets, roots) => {
      for (const mode of [0o755, 0o1777]) {
        chmodSync(roots, mode)
        const path = join(roots, `${mode}.sock`)
        const socket = await bind(sockets, path, ALICE)
        assert.is(statSync(path).uid, ALICE)
        sockets.giveTo(user(BOB), socket)
        assert.is(statSync(path).uid, BOB)
        sockets.giveTo(null, socket)
        assert.is(statSync(path).uid, 0)
      }
      sockets.closeAll()
      assert.equal(readdirSync(roots), [])
    }))

  test("a declared socket in the user's own folder is made and removed by the user, and follows its user", () =>
    withFolders(async (sockets, roots, alices) => {
      const path = join(alices, 'app.sock')
      const socket = await bind(sockets, path, ALICE)
      assert.equal([statSync(path).uid, statSync(path).gid], [ALICE, ALICE])
      sockets.giveTo(user(BOB), socket)
      assert.is(statSync(path).uid, BOB)
      sockets.giveTo(user(ALICE), socket)
      sockets.closeAll()
      assert.not(existsSync(path))
      symlinkSync(roots, join(alices, 'link'))
      await rejects(bind(sockets, join(alices, 'link/app.sock'), ALICE), 'EACCES')
      const { message } = await rejects(bind(sockets, path, BOB), 'EACCES')
      assert.ok(
        message.endsWith(`'uid ${BOB}' may not make it, and root makes nothing in what others can change (${alices})`),
      )
      assert.equal(readdirSync(roots), [])
    }))

  for (const what of sys === null ? [] : ['file', 'socket'])
    caseTest(what === 'file')(
      `a ${what} of root in the place of a user's socket is given to nobody and stays, even if it was taken for the socket`,
      () =>
        withFolders(async (sockets, roots, alices) => {
          const path = join(alices, 'run/app.sock')
          mkdirSync(dirname(path))
          chownSync(dirname(path), ALICE, ALICE)
          await bind(sockets, path, ALICE)
          const [[{ fd }, entry]] = sockets.list() as [ReturnType<Sockets['list']>[0]]
          const victim = join(roots, 'app.sock')
          if (what === 'file') writeFileSync(victim, 'secret', { mode: 0o600 })
          else await bind(sockets, victim, 0)
          renameSync(dirname(path), `${dirname(path)}.old`)
          symlinkSync(roots, dirname(path)) // as Alice can do
          const next = new Sockets()
          next.own()
          // As if that had come between bind and the look at what was bound.
          const copy = (sys as Sys).duplicate(fd).release()
          next.tryToGive(user(BOB), next.inherit({ ...entry, fd: copy, file: fileId(victim) }))
          assert.is(statSync(victim).uid, 0)
          next.closeAll()
          assert.ok(existsSync(victim))
        }),
    )

  test('a socket of root in a folder that others can change is not given away', () =>
    withFolders(async (sockets, _roots, alices) => {
      const path = join(alices, 'app.sock')
      await bind(sockets, path, 0)
      sockets.release()
      const { message } = await rejects(bind(sockets, path, ALICE), 'EPERM')
      assert.match(message, /^chown .*: EPERM .*: others than root can change .*alices: 'restart' binds it anew$/)
      assert.is(statSync(path).uid, 0)
    }))
}

test.run()
