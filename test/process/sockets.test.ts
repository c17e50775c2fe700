// The sockets of a server, in one process.

import { mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Credentials, Declaration } from '../../src/process/group.ts'
import { Sockets } from '../../src/process/sockets.ts'

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

test.run()
