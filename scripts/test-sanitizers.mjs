// Runs the addon's tests under AddressSanitizer and UndefinedBehaviorSanitizer: a separate binary, with the sanitizers'
// libraries loaded before Node. Leaks are not checked: V8 frees nothing at exit.

import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './files.mjs'

const KINDS = 'address,undefined'
const binary = join(root, 'build/sanitized/millrace.node')

const built = spawnSync(process.execPath, ['scripts/build-native.mjs', '--sanitize', KINDS, '--strict'], {
  cwd: root,
  stdio: 'inherit',
})
if (built.status !== 0 || !existsSync(binary)) process.exit(1)

const libraries = ['libasan.so', 'libubsan.so'].map((name) =>
  execFileSync('gcc', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim(),
)
// A million instrumented calls take a while on a busy machine.
const args = ['--no-checks', '--timeout-ms', '400000', '--addon', binary]
const { status } = spawnSync(process.execPath, ['scripts/test.mjs', ...args, 'test/native/'], {
  cwd: root,
  stdio: 'inherit',
  env: {
    ...process.env,
    LONG: '1',
    LD_PRELOAD: libraries.join(':'),
    ASAN_OPTIONS: 'detect_leaks=0:halt_on_error=1:abort_on_error=1',
    UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
  },
})
process.exit(status ?? 1)
