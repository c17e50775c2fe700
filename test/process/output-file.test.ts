// A file that the master writes: moved, truncated, full, forbidden, and never larger than it may be.

import { execFileSync } from 'node:child_process'
import {
  closeSync,
  constants,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { sendLogTo } from '../../src/log.ts'
import { OutputFile } from '../../src/process/output/output-file.ts'
import { randomOf, seedOf } from '../support/random.ts'
import { until } from '../support/until.ts'

async function inFolder(use: (folder: string) => unknown): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'mr-out-'))
  try {
    await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function read(path: string): string {
  return readFileSync(path, 'utf8')
}

test('it appends to what is there, and is readable by owner and group alone', async () => {
  await inFolder((folder) => {
    const path = join(folder, 'a')
    new OutputFile(path, 0).write('new\n')
    const file = new OutputFile(path, 0)
    file.write(Buffer.from('more\n'))
    file.close()
    file.write('after the end')
    assert.is(read(path), 'new\nmore\n')
    assert.is(statSync(path).mode & 0o777, 0o640)
  })
})

test('random writes: file and predecessor are the end of all that was written, and neither is larger than the bound', async () => {
  const random = randomOf(seedOf('output-file'))
  for (let run = 0; run < 20; run++) {
    await inFolder((folder) => {
      const path = join(folder, 'a')
      const bound = 200 + random(2000)
      const file = new OutputFile(path, bound)
      let all = ''
      for (let n = 0; n < 200; n++) {
        const line = `${n} ${'x'.repeat(random(150))}\n`
        all += line
        file.write(line)
      }
      file.close()
      const [now, before] = [read(path), read(`${path}.1`)]
      assert.ok(all.endsWith(before + now))
      assert.ok(now.length <= bound && before.length <= bound)
      assert.ok(before.length > bound - 160, 'the predecessor is nearly full')
    })
  }
})

test('one write that is larger than the bound is written whole, and the next begins anew', async () => {
  await inFolder((folder) => {
    const path = join(folder, 'a')
    const file = new OutputFile(path, 10)
    file.write('small\n')
    file.write('x'.repeat(100))
    file.write('next\n')
    file.close()
    assert.is(read(path), 'next\n')
    assert.is(read(`${path}.1`), 'x'.repeat(100))
  })
})

test('a write of many lines that is larger than the bound is cut behind lines', async () => {
  await inFolder((folder) => {
    const path = join(folder, 'a')
    const file = new OutputFile(path, 1000)
    const all = Array.from({ length: 2000 }, (_, n) => `${n}\n`).join('')
    file.write('before\n')
    file.write(all)
    file.close()
    const [now, before] = [read(path), read(`${path}.1`)]
    assert.ok(all.endsWith(before + now))
    assert.ok(now.length <= 1000 && before.length <= 1000 && before.length > 990)
    assert.ok(before.endsWith('\n'))
  })
})

test('one that cannot be put aside goes on', async () => {
  await inFolder((folder) => {
    const path = join(folder, 'a')
    mkdirSync(join(folder, 'a.1/full'), { recursive: true })
    const file = new OutputFile(path, 100)
    for (let n = 100; n < 200; n++) file.write(`${n}\n`)
    file.close()
    assert.is(read(path), Array.from({ length: 100 }, (_, n) => `${n + 100}\n`).join(''))
    assert.is(file.lostBytes, 0)
  })
})

/** The open descriptors of a path. */
function descriptorsOf(path: string): number[] {
  return readdirSync('/proc/self/fd')
    .filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`) === path
      } catch {
        return false // ENOENT: the one that read the folder
      }
    })
    .map(Number)
}

test('a descriptor that fails every call throws nothing either, and what is lost is counted', async () => {
  await inFolder(async (folder) => {
    const path = join(folder, 'a')
    const file = new OutputFile(path, 20)
    file.write('0123456789\n')
    for (const fd of descriptorsOf(path)) closeSync(fd) // EBADF from now on; a real one would be EIO or ESTALE
    file.write('x\n')
    assert.is(file.lostBytes, 2)
    const started = performance.now()
    await until(() => {
      file.write('x'.repeat(30))
      return performance.now() - started > 1_100 // it has looked at the path meanwhile
    })
    renameSync(path, `${path}.old`)
    openSync('/dev/null', 'r') // takes the free number: the file that is opened next must not get it
    file.reopen()
    file.write('back\n')
    assert.is(read(path), 'back\n')
    assert.is(descriptorsOf(path).length, 1)
    file.close()
  })
})

test('a line that was cut by a full disk is ended before the next one', async () => {
  await inFolder((folder) => {
    const path = join(folder, 'a')
    const [log, outputFile] = ['../../src/log.js', '../../src/process/output/output-file.js'].map(
      (name) => new URL(name, import.meta.url).href,
    )
    // The limit on a file's size stands for the disk: the write that crosses it is done in part.
    const program = `
      import { truncateSync } from 'node:fs'
      const { guardOutput } = await import('${log}')
      const { OutputFile } = await import('${outputFile}')
      guardOutput()
      const [path] = process.argv.slice(-1)
      const file = new OutputFile(path, 0)
      while (file.lostBytes === 0) file.write('a line of 25 characters..\\n')
      const { lostBytes } = file
      file.write('lost\\n')
      truncateSync(path, 260 + 10)
      file.write('whole\\n')
      file.write('last\\n')
      console.log(lostBytes, file.lostBytes)`
    const args = ['-c', 'ulimit -f 8; exec "$@"', 'sh', process.execPath, '--input-type=module', '-e', program, path]
    const env = { ...process.env, NODE_V8_COVERAGE: undefined } // its report would be over the limit, too
    const [first, all] = execFileSync('sh', args, { encoding: 'utf8', env }).split(' ').map(Number)
    assert.ok((first ?? 0) > 0 && (first ?? 0) < 26, 'it was cut')
    assert.is(all, (first ?? 0) + 5)
    assert.is(read(path), `${'a line of 25 characters..\n'.repeat(10)}a line of \nwhole\nlast\n`)
  })
})

test('moved away, it is opened anew within a second or so; at once when it is told', async () => {
  await inFolder(async (folder) => {
    const path = join(folder, 'a')
    const file = new OutputFile(path, 0)
    file.write('1\n')
    renameSync(path, `${path}.old`)
    await until(() => {
      file.write('2\n')
      return statSync(path, { throwIfNoEntry: false })
    })
    renameSync(path, `${path}.older`)
    file.reopen()
    file.write('3\n')
    file.close()
    assert.match(read(`${path}.old`), /^1\n(2\n)+$/)
    assert.is(read(path), '3\n')
  })
})

test('moved away, and not to be opened again: that is said once, and what goes into a deleted file is lost', async () => {
  await inFolder(async (folder) => {
    const [path, said] = [join(folder, 'a'), [] as string[]]
    const file = new OutputFile(path, 0)
    renameSync(path, `${path}.1`)
    mkdirSync(path) // a file that may not be opened would be no obstacle for root
    sendLogTo((line) => said.push(line))
    try {
      for (let n = 0; n < 2; n++) file.reopen()
      assert.is(said.length, 1)
      assert.match(
        said[0] ?? '',
        /^.*\/a: it was moved away, and cannot be opened again: .*EISDIR.*: the moved file is written/,
      )
      file.write('kept\n')
      assert.is(file.lostBytes, 0)
      assert.is(read(`${path}.1`), 'kept\n')
      rmSync(`${path}.1`)
      file.reopen()
      file.write('lost\n')
      assert.is(file.lostBytes, 5)
      rmdirSync(path)
      file.reopen()
      file.write('back\n')
      assert.is(file.lostBytes, 5)
      assert.is(read(path), 'back\n')
    } finally {
      sendLogTo(null)
      file.close()
    }
  })
})

test('truncated, its size counts from there', async () => {
  await inFolder((folder) => {
    const path = join(folder, 'a')
    const file = new OutputFile(path, 100)
    file.write('x'.repeat(90))
    truncateSync(path)
    for (let n = 0; n < 50; n++) file.write('y')
    file.close()
    assert.is(read(path), 'y'.repeat(50))
    assert.is(statSync(`${path}.1`, { throwIfNoEntry: false }), undefined)
  })
})

test('a folder that is gone costs nothing but the name: it goes on with the old file', async () => {
  await inFolder((folder) => {
    const path = join(folder, 'a')
    const file = new OutputFile(path, 0)
    renameSync(path, `${path}.kept`)
    writeFileSync(path, '')
    rmSync(path)
    symlinkSync('/dev/null', path) // which is not followed
    file.reopen()
    file.write('kept\n')
    file.close()
    assert.is(read(`${path}.kept`), 'kept\n')
  })
})

test('a file whose folder was removed is bounded too: nobody can read it, and it fills the disk', async () => {
  await inFolder((folder) => {
    const path = join(folder, 'logs', 'a')
    mkdirSync(join(folder, 'logs'))
    const file = new OutputFile(path, 1000)
    const open = readdirSync('/proc/self/fd').filter((fd) => linkOf(fd) === path)
    rmSync(join(folder, 'logs'), { recursive: true })
    for (let n = 0; n < 100; n++) file.write(`${'x'.repeat(99)}\n`)
    const [fd = ''] = open
    assert.ok(statSync(`/proc/self/fd/${fd}`).size <= 1000)
    mkdirSync(join(folder, 'logs'))
    file.reopen()
    file.write('back\n')
    assert.is(read(path), 'back\n')
    file.close()
  })
})

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return '' // ENOENT: the listing's own
  }
}

test('a pipe is not waited for: it is refused without a reader, and loses what it does not take', async () => {
  await inFolder((folder) => {
    const path = join(folder, 'fifo')
    execFileSync('mkfifo', [path])
    assert.throws(() => new OutputFile(path, 0), /ENXIO/)
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const file = new OutputFile(path, 0)
    for (let n = 0; n < 100; n++) file.write('x'.repeat(4096))
    assert.ok(file.lostBytes > 0)
    file.close()
    closeSync(reader)
  })
})

test('a full disk is counted, and throws nothing; a device is never put aside', () => {
  const file = new OutputFile('/dev/full', 10)
  for (let n = 0; n < 10; n++) file.write('hello\n')
  assert.is(file.lostBytes, 60)
  file.close()
})

for (const [what, path] of [
  ['below a file', '/dev/null/x'],
  ['that is a folder', tmpdir()],
] as const) {
  test(`a path ${what} is an error that names it`, () => {
    assert.throws(() => new OutputFile(path, 0), new RegExp(`open ${path}: (ENOTDIR|EISDIR)`))
  })
}

test.run()
