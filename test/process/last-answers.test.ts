// The end of a process in the turn of an answer: what handlers have sent by then leaves all the same.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { caseTest } from '../support/length.ts'
import { Client, echo, inSandbox, portOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const WAYS: Record<string, string> = {
  'process.exit()': 'process.exit(0)',
  'process.exit() in a microtask': 'queueMicrotask(() => process.exit(0))',
  'process.exit() in the next turn': 'setImmediate(() => process.exit(0))',
  'an unhandled rejection': "Promise.reject(new Error('planted'))",
  'an uncaught error': "process.nextTick(() => { throw new Error('planted') })",
}

/** The others are for the long suite. */
const EVERY_DAY: Record<string, string | undefined> = {
  node: WAYS['process.exit()'],
  native: WAYS['an uncaught error'],
}

for (const engine of addon().newEngine === null ? ['node'] : ['node', 'native'])
  for (const [way, code] of Object.entries(WAYS))
    caseTest(code === EVERY_DAY[engine])(
      `${engine}: what was sent leaves before the process ends by ${way}`,
      async () => {
        await inSandbox(async (box) => {
          const at = (name: string) => join(box.directory, name)
          const ending = `
          import { existsSync, writeFileSync } from 'node:fs'
          worker.onMessage = (connection, line) => {
            connection.send('first')
            connection.send(line)
            if (line === 'block') writeFileSync('${at('blocked')}', '')
            while (line === 'block' && !existsSync('${at('go')}'));
            if (line === 'last') { ${code} }
          }`
          const status = await box.start(box.file('app.js', echo(1, ending)), '--engine', engine)
          const connect = () => Client.connect(portOf(status))
          const [blocking, one, other] = await Promise.all([connect(), connect(), connect()])
          assert.is(await one.ask('warm'), 'first')
          assert.is(await one.line(), 'warm')
          blocking.send('block') // what comes meanwhile is one batch
          await until(() => existsSync(at('blocked')))
          one.send('one')
          await until(() => isUnread(one))
          other.send('last')
          await until(() => isUnread(other))
          writeFileSync(at('go'), '')
          for (const line of ['first', 'last']) assert.is(await other.line(), line)
          for (const line of ['first', 'one']) assert.is(await one.line(), line)
          await box.stop()
        })
      },
    )

/** Whether the server's kernel has bytes of this client that the process has not read (proc(5), /proc/net/tcp). */
function isUnread({ socket: { localPort = 0, remotePort = 0 } }: Client): boolean {
  const [client, server] = [localPort, remotePort].map((port) => port.toString(16).toUpperCase().padStart(4, '0'))
  const row = new RegExp(`^ *\\d+: 0100007F:${server} 0100007F:${client} \\S+ [0-9A-F]{8}:([0-9A-F]{8})`, 'm')
  return Number.parseInt(row.exec(readFileSync('/proc/net/tcp', 'utf8'))?.[1] ?? '0', 16) > 0
}

test.run()
