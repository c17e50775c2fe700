// The rows of `millrace connections`: one page, in order of ids.

import { kSettings } from '../connection/settings.ts'
import { kTransport } from '../connection/symbols.ts'
import type { AnyConnection } from '../connection.ts'
import type { ConnectionRow } from '../process/group.ts'

/** Returns the first `limit` connections of these owners whose id is above `after`. */
export function rowsOf(
  owners: readonly { readonly connections: ReadonlyMap<number, AnyConnection> }[],
  after: number,
  limit: number,
): ConnectionRow[] {
  const rows: ConnectionRow[] = []
  const all = owners.flatMap(({ connections }) => [...connections.values()])
  if (owners.length > 1) all.sort((a, b) => a.id - b.id) // ids are unique in the process
  for (const connection of all) {
    if (rows.length >= limit) break
    if (connection.id > after) rows.push(rowOf(connection))
  }
  return rows
}

function rowOf(connection: AnyConnection): ConnectionRow {
  return {
    id: connection.id,
    protocol: connection.protocol.name,
    role: connection[kSettings].role,
    transport: connection[kTransport],
    isIpV4: connection.isIpV4(),
    isIpV6: connection.isIpV6(),
    recvQueue: connection.getRecvBufferQueueSize(),
    sendQueue: connection.getSendBufferQueueSize(),
    bytesRead: connection.bytesRead,
    bytesWritten: connection.bytesWritten,
    status: connection.getStatus(false),
    local: connection.getLocalAddress(),
    remote: connection.getRemoteAddress(),
  }
}
