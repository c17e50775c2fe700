// Which part of a path others than root can change. Needs root, to make what belongs to others.

import { chmodSync, chownSync, lchownSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { loosePartOf } from '../src/loose-path.ts'

const ALICE = 12_345

test('the root folder is fixed, for relative paths the working folder counts', () => {
  assert.is(loosePartOf('/'), '')
  assert.is(loosePartOf('.'), loosePartOf(process.cwd()))
})

if (process.geteuid?.() === 0)
  test('a part is loose if it is not of root, others can write in it, or the link that leads on is of somebody', () => {
    const at = realpathSync(mkdtempSync(join(tmpdir(), 'mr-')))
    try {
      for (const [name, mode] of [
        ['plain', 0o755],
        ['plain/sub', 0o700],
        ['group', 0o775],
        ['all', 0o757],
        ['sticky', 0o1777],
        ['sticky/sub', 0o755],
        ['alice', 0o755],
        ['alice/roots', 0o700],
        ['sticky/alice', 0o755],
      ] as const) {
        mkdirSync(join(at, name))
        chmodSync(join(at, name), mode)
        if (name.endsWith('alice')) chownSync(join(at, name), ALICE, ALICE)
      }
      for (const [target, name] of [
        ['plain/sub', 'link'],
        [join(at, 'plain'), 'absolute'],
        ['alice', 'astray'],
        ['../plain', 'sticky/link'],
        ['../plain', 'sticky/planted'],
        ['self', 'self'],
      ] as const)
        symlinkSync(target, join(at, name))
      lchownSync(join(at, 'sticky/planted'), ALICE, ALICE)
      for (const [path, loose] of [
        ['plain', ''],
        ['plain/sub', ''],
        ['plain/./sub/../sub//', ''],
        ['plain/missing/sub', ''],
        ['group', 'group'],
        ['group/missing', 'group'],
        ['all', 'all'],
        ['sticky', ''],
        ['sticky/sub', ''],
        ['sticky/missing', 'sticky/missing'],
        ['sticky/alice', 'sticky/alice'],
        ['alice', 'alice'],
        ['alice/roots', 'alice'],
        ['alice/../plain', 'alice'],
        ['link', ''],
        ['link/../sub', ''],
        ['absolute/sub', ''],
        ['astray', 'alice'],
        ['sticky/link', ''],
        ['sticky/planted', 'sticky/planted'],
        ['self', '.'],
      ] as const)
        assert.is(loosePartOf(`${at}/${path}`), loose && join(at, loose), path)
    } finally {
      rmSync(at, { recursive: true })
    }
  })

test.run()
