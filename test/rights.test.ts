// The rights of another user for one call. Needs root.

import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { withRightsOf } from '../src/rights.ts'
import { longTest } from './support/length.ts'

const ALICE = { user: null, uid: 12_345, gid: 23_456 }

function ids(): unknown[] {
  return [process.geteuid?.(), process.getegid?.(), process.getgroups?.()]
}

test('without a user the call has the rights of this process', () => {
  assert.equal(withRightsOf(null, ids), ids())
})

if (process.geteuid?.() === 0) {
  test('uid, gid and groups are those of the user during the call, and what they were after it, also if it throws', () => {
    const before = ids()
    const folder = mkdtempSync(join(tmpdir(), 'mr-'))
    try {
      assert.equal(withRightsOf(ALICE, ids), [ALICE.uid, ALICE.gid, [ALICE.gid]])
      assert.equal(ids(), before)
      const write = () => writeFileSync(join(folder, 'file'), '')
      assert.throws(
        () => withRightsOf(ALICE, write),
        (error: NodeJS.ErrnoException) => error.code === 'EACCES',
      )
      assert.equal(ids(), before)
      write()
      assert.is(statSync(join(folder, 'file')).uid, 0)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  test('the groups of a user with a name are those of the system', () => {
    const daemon = { user: 'daemon', uid: 1, gid: 1 }
    const [uid, gid, groups] = withRightsOf(daemon, ids)
    assert.equal([uid, gid, (groups as number[]).includes(0)], [1, 1, false])
  })

  longTest('what root may not become here is an error, and root stays what it is', async () => {
    const code = `
      import { withRightsOf } from '${import.meta.resolve('../src/rights.js')}'
      const ids = () => [process.geteuid(), process.getegid(), process.getgroups()].join()
      const before = ids()
      try { withRightsOf({ user: null, uid: 12345, gid: 23456 }, () => console.log('was called')) }
      catch (error) { console.log(error.code, error.syscall, ids() === before) }`
    for (const right of ['setuid', 'setgid']) {
      const without = [`--bounding-set=-${right}`, `--inh-caps=-${right}`]
      const { stdout } = await promisify(execFile)('setpriv', [
        ...without,
        process.execPath,
        '--input-type=module',
        '-e',
        code,
      ])
      assert.is(stdout.trim(), 'EPERM seteuid true', right)
    }
  })
}

test.run()
