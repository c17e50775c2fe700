// What a process has published to itself, or asked itself, and has not settled when it leaves: nobody else keeps it, so it
// is told there.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { drive, startDriven } from '../support/driven.ts'
import { inSandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

// What is held when it is told of goes on then: its end is not told as well.
const holding = (serial: boolean) => `
  Worker.stopTimeout = 0.3
  driver.serial = ${serial}
  const note = (...words) => console.error('--', ...words)
  const held = []
  const told = (message, { code, mayHaveBeenHandled }) => {
    note('told of', message, code, mayHaveBeenHandled)
    for (const goOn of held.splice(0)) goOn()
  }
  driver.onSendFail = (error, message) => told(message, error)
  const hold = (message) => {
    note('began', message)
    return message.startsWith('brief') ? Promise.resolve(1) : new Promise((goOn) => { held.push(goOn) })
  }
  Channel.subscribe('news', hold)
  Channel.subscribe('jobs', hold, { queue: 'q' })
  state.say = () => {
    Channel.publish('news', 'brief')
    Channel.publish('news', 'news')
    for (const job of ['job 1', 'job 2']) Channel.publish('jobs', job)
    void Channel.request('jobs', 'asked').catch((error) => told('asked', error))
    return Channel.request('jobs', 'brief request')
  }
`

const MESSAGES = ['asked', 'job 1', 'job 2', 'news']

for (const serial of [false, true])
  test(`what a process has published to itself, or asked itself, is told when it leaves${serial ? ', also of a serial one' : ''}`, () =>
    inSandbox(async (box) => {
      const port = await startDriven(box, holding(serial))
      await drive(port, `return state.say()`)
      const notes = (pattern: RegExp) => [...box.log().matchAll(pattern)].map(([, what]) => what).sort()
      const began = serial ? ['asked', 'news'] : MESSAGES // what it asks itself does not wait for its turn
      await until(() => notes(/-- began (?!brief)(.*)/g).length === began.length)
      await box.stop()
      assert.equal(notes(/-- began (?!brief)(.*)/g), began)
      assert.equal(
        notes(/-- told of (.*)/g),
        MESSAGES.map((message) => `${message} ERR_PEER_LOST ${began.includes(message)}`),
      )
    }))

test.run()
