// A disk that is full while the master is at work: the run directory, with lock, pid file and log, is on it. What needs a file
// says so and is given up; everything else goes on.

import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { longTest } from '../support/length.ts'
import { failed, quick, upgrade } from '../support/release.ts'
import { reload } from '../support/reload.ts'
import { ask, echo, inSandbox, portOf, type Sandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'
import { isRoot, where } from '../support/where.ts'

const DISK_BYTES = 512 * 1024

/** Fills the disk under the run directory to the last byte; the result makes room again. */
function fill(box: Sandbox): () => void {
  const filler = join(box.runDir, 'filler')
  const page = Buffer.alloc(4096)
  try {
    for (;;) writeFileSync(filler, page, { flag: 'a' })
  } catch (error) {
    assert.is((error as NodeJS.ErrnoException).code, 'ENOSPC')
  }
  return () => rmSync(filler)
}

where(
  isRoot,
  'root',
  longTest,
)(
  'on a full disk workers are replaced, reloads go through, an upgrade is given up; with room again it is done',
  async () => {
    await inSandbox(async (box) => {
      mkdirSync(box.runDir, { mode: 0o700 })
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES},mode=700`, 'none', box.runDir])
      try {
        const before = await box.start(box.file('app.js', echo(2, quick)))
        const port = portOf(before)
        const empty = fill(box)
        process.kill(workersOf(before)[0]?.pid ?? 0, 'SIGKILL')
        await until(async () => {
          const { workers = [] } = (await box.status()).groups[0] ?? {}
          return workers.every(({ state }) => state === 'ready') && workers[0]?.incarnation === 2
        }, 20_000)
        await reload(box)
        failed(await box.command('upgrade'), /given up: .*ENOSPC/)
        const after = await box.status()
        assert.is(after.pid, before.pid)
        assert.is(JSON.parse(readFileSync(join(box.runDir, 'lock'), 'utf8')).pid, before.pid)
        assert.match(await ask(port, 'x'), /^x/)
        empty()
        assert.is((await upgrade(box)).oldPid, before.pid)
        assert.match(await ask(port, 'x'), /^x/)
        await box.stop()
        fill(box)
        const { code, stderr } = await box.command('start', '-d', box.file('app.js', echo()))
        assert.is(code, 1)
        assert.match(stderr, new RegExp(`write ${box.runDir}/(lock|millrace.pid): ENOSPC .*\n.*next: make room`))
      } finally {
        execFileSync('umount', ['-l', box.runDir])
      }
    })
  },
)

test.run()
