// Sends a million numbered messages between workers, through crashes, reloads and changes of count, and accounts for
// each: the test test/messaging/accounting.test.ts with more messages. For CI; takes some minutes.
//
//   node scripts/soak-messaging.mjs [messages]
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root } from './files.mjs'

const messages = Number(process.argv[2] ?? 1_000_000)
if (!(messages >= 1000)) {
  console.error('usage: node scripts/soak-messaging.mjs [messages, 1000 or more]')
  process.exit(2)
}
for (const [file, ...args] of [
  ['build.mjs'],
  ['build-tests.mjs'],
  ['test.mjs', '--no-checks', 'messaging/accounting'],
]) {
  const env = { ...process.env, MESSAGES: String(messages), BURST: '60', TEST_TIMEOUT_MS: '1200000' }
  const { status } = spawnSync(process.execPath, [join(root, 'scripts', file), ...args], { stdio: 'inherit', env })
  if (status !== 0) process.exit(status ?? 1)
}
