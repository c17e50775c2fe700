// The end of a process in the turn of an answer: what handlers have sent by then leaves all the same.

import { setTimeout as pause } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { Client, echo, inSandbox, portOf } from '../support/server.ts'

const WAYS: Record<string, string> = {
  'process.exit()': 'process.exit(0)',
  'process.exit() in a microtask': 'queueMicrotask(() => process.exit(0))',
  'process.exit() in the next turn': 'setImmediate(() => process.exit(0))',
  'an unhandled rejection': "Promise.reject(new Error('planted'))",
  'an uncaught error': "process.nextTick(() => { throw new Error('planted') })",
}

for (const engine of addon().newEngine === null ? ['node'] : ['node', 'native'])
  for (const [way, code] of Object.entries(WAYS))
    test(`${engine}: what was sent leaves before the process ends by ${way}`, async () => {
      await inSandbox(async (box) => {
        const ending = `
          worker.onMessage = (connection, line) => {
            connection.send('first')
            connection.send(line)
            if (line === 'block') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500)
            if (line === 'last') { ${code} }
          }`
        const status = await box.start(box.file('app.js', echo(1, ending)), '--engine', engine)
        const connect = () => Client.connect(portOf(status))
        const [blocking, one, other] = await Promise.all([connect(), connect(), connect()])
        assert.is(await one.ask('warm'), 'first')
        assert.is(await one.line(), 'warm')
        blocking.send('block') // what comes meanwhile is one batch
        await pause(50)
        one.send('one')
        await pause(50)
        other.send('last')
        for (const line of ['first', 'last']) assert.is(await other.line(), line)
        for (const line of ['first', 'one']) assert.is(await one.line(), line)
        await box.stop()
      })
    })

test.run()
