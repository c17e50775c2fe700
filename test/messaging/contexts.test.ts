// Messages and AsyncLocalStorage: many senders share a link, and a link was made by one of them. A handler or callback
// finds nothing of any of them there, nor of the handler before it, and keeps its own across an await.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { drive, startDriven } from '../support/driven.ts'
import { caseTest } from '../support/length.ts'
import { inSandbox } from '../support/server.ts'

// Each handler and callback notes what it was called for and the store it found, and leaves one of its own there.
const groups = `
  const { AsyncLocalStorage } = process.getBuiltinModule('node:async_hooks')
  const als = new AsyncLocalStorage()
  let seen = []
  const note = (what) => {
    seen.push([what, als.getStore() ?? null])
    als.enterWith('left by ' + what)
  }
  const kept = async (what, call) => {
    note(what)
    call?.signal.addEventListener('abort', () => note('abort of ' + what))
    await Promise.resolve()
    if (als.getStore() !== 'left by ' + what) seen.push(['lost', what])
  }
  async function* stream(what) { note('stream for ' + what); yield 1 }
  const take = (from, message, call) => {
    if (message === 'die') process.exit(1)
    if (message === 'seen') return seen.splice(0)
    if (message === 'hang') return kept(message, call).then(() => new Promise((resolve) => call.signal.addEventListener('abort', resolve)))
    if (message === 'stream') return stream(message)
    return message.endsWith('slow') ? kept(message, call) : note(message)
  }
  const others = new Worker({ name: 'others', maxMailboxMessages: 6 })
  others.onMessage = take
  const serial = new Worker({ name: 'serial', serial: true })
  serial.onMessage = take
  for (const group of [others, serial]) group.onWorkerStart = () => {
    Channel.subscribe('remote.' + group.name, note)
  }
  others.onSendFail = (error, message) => note('failure of ' + message)
  others.onWorkerBufferDrain = () => note('drain')
  driver.onWorkerStart = () => {
    Channel.subscribe('own', (message) => message.endsWith('slow') ? kept(message) : note(message))
    Channel.subscribe('own.stream', stream)
  }
  state.as = (...users) => (use) => { for (const user of users) als.run('store of ' + user, use, user) }
  state.seen = () => seen.splice(0)
`

/**
 * A mailbox of six is soon full: what is published waits there, too, until its worker has said what it subscribes to,
 * and a message is settled a moment after the answer to the request behind it.
 */
const SETTLED = 'while (groups.others.worker(0).pendingMessages > 0) await millrace.Timer.sleep(0.001)'

for (const engine of addon().newEngine === null ? ['node'] : ['native', 'node']) {
  caseTest(engine === 'node')(`${engine}: what is stored for one message is not there for another`, () =>
    inSandbox(async (box) => {
      const port = await startDriven(box, groups, '--engine', engine)
      const check = async (what: string, code: string, names: readonly string[]) => {
        const seen = await drive<[string, string | null][]>(port, code)
        assert.equal(
          seen.sort(([a], [b]) => a.localeCompare(b)),
          names.map((name) => [name, null]).sort(([a], [b]) => String(a).localeCompare(String(b))),
          what,
        )
      }
      const until = (count: number) =>
        `const all = []; while (all.length < ${count}) { all.push(...state.seen()); await millrace.Timer.sleep(0.001) } return all`
      await check(
        'own subscribers',
        `state.as('alice', 'bob', 'carol slow', 'dave')((user) => Channel.publish('own', user)); ${until(4)}`,
        ['alice', 'bob', 'carol slow', 'dave'],
      )
      await drive(port, SETTLED)
      await check(
        'own requests, and streams',
        `const asked = []
        state.as('alice', 'bob')((user) => asked.push(Channel.request('own.stream', user)))
        for (const one of asked) for await (const item of await one);
        ${until(2)}`,
        ['stream for alice', 'stream for bob'],
      )
      for (const group of ['others', 'serial']) {
        await check(
          `messages to ${group}`,
          `state.as('alice', 'bob slow', 'carol', 'dave slow')((user) => groups.${group}.worker(0).send(user))
          await groups.${group}.worker(0).request('eve'); ${SETTLED}; return groups.${group}.worker(0).request('seen')`,
          ['alice', 'bob slow', 'carol', 'dave slow', 'eve'],
        )
        await check(
          `publishes to ${group}`,
          `state.as('alice', 'bob')((user) => Channel.publish('remote.${group}', user))
          await groups.${group}.worker(0).request('eve'); ${SETTLED}; return groups.${group}.worker(0).request('seen')`,
          ['alice', 'bob', 'eve'],
        )
      }
      await drive(port, `await groups.others.worker(0).request('seen')`)
      await check(
        'streams, and requests that are given up',
        `const aborter = new AbortController(), gone = []
        state.as('alice', 'bob')(() => gone.push(groups.others.worker(0).request('hang', { signal: aborter.signal }).catch(() => {})))
        state.as('carol')(() => state.stream = groups.others.worker(0).request('stream'))
        for await (const item of await state.stream);
        aborter.abort(); await Promise.all(gone); ${SETTLED}
        return groups.others.worker(0).request('seen')`,
        ['hang', 'hang', 'stream for stream', 'abort of hang', 'abort of hang'],
      )
      await check(
        'the end of a full mailbox',
        `${SETTLED}
        state.as('alice', 'bob', 'carol', 'dave', 'eve', 'frank', 'grace')((user) => groups.others.worker(0).send(user)); ${until(2)}`,
        ['failure of grace', 'drain'],
      )
      await drive(port, SETTLED)
      await check(
        'messages that are lost with their worker',
        `groups.others.worker(0).send('die')
        state.as('alice', 'bob', 'carol')((user) => groups.others.worker(0).send(user)); ${until(4)}`,
        ['failure of die', 'failure of alice', 'failure of bob', 'failure of carol'],
      )
      await box.stop()
    }),
  )
}

test.run()
