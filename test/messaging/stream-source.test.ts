// The producing end of a streamed answer, with what Node's streams do when nobody reads them.

import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Call } from '../../src/messaging/call.ts'
import { StreamSource } from '../../src/messaging/stream-source.ts'
import { nextTurn, rejects, until } from '../support/until.ts'

const sink = { isClosed: false, isFull: () => false, item: () => undefined }
const callThat = (isAborted: boolean) => ({ isAborted }) as unknown as Call

test('a Readable whose request has ended before it is read is destroyed, and its error ends no process', async () => {
  const missing = createReadStream('/no/such/file')
  await new StreamSource(missing, callThat(true), sink).pump()
  await until(() => missing.closed)
  const endless = Readable.from([1, 2, 3])
  await new StreamSource(endless, callThat(true), sink).pump()
  assert.ok(endless.destroyed)
})

test('the error of a Readable that is read is the error of the stream', async () => {
  const source = new StreamSource(createReadStream('/no/such/file'), callThat(false), sink)
  source.credit(1)
  await nextTurn() // it may have failed by then
  await rejects(source.pump(), 'ENOENT')
})

test.run()
