// A NATS that accepts connections and says nothing.

import net from 'node:net'
import { test } from 'uvu'
import { Mailbox } from '../../src/messaging/mailbox.ts'
import type { BridgeHost } from '../../src/messaging/messaging.ts'
import { ClusterEnd } from '../../src/messaging/nats/cluster-end.ts'
import { settingsOf } from '../../src/messaging/nats/options.ts'
import { nothing } from '../../src/nothing.ts'
import { within } from '../support/until.ts'

test('a process that takes no messages does not wait until NATS knows it', async () => {
  const sockets: net.Socket[] = []
  const server = net.createServer((socket) => sockets.push(socket))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as net.AddressInfo
  const callbacks = { onSendFail: null, onBufferDrain: null }
  const end = new ClusterEnd(settingsOf('shop', { nats: `nats://127.0.0.1:${port}` }), callbacks)
  const host: BridgeHost = {
    ...{ name: 'here', id: 0, serial: false, hasOwnName: true, workerHandler: null, working: nothing },
    ...{ maxMailboxMessages: 4, maxMailboxBytes: 1000 },
    counters: { messagesIn: 0, handlerErrors: 0, refused: 0, sendFail: 0 },
  }
  end.open(host, new Mailbox(host))
  try {
    await within(500, end.serve())
  } finally {
    end.close()
    server.close()
    for (const socket of sockets) socket.destroy()
  }
})

test.run()
