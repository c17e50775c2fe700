// Chooses how datagrams are sent and received: on the native engine, which needs a descriptor, or on node:dgram, which
// without the addon cannot give or take one.

import type { SystemError } from '../errors.ts'
import type { DatagramSocket, Listener } from '../transport.ts'
import { chooseEngine } from './engines.ts'
import { NativeUdpClient, NativeUdpServer } from './native-udp.ts'
import { type DatagramClient, type DatagramSource, type Receive, UdpClient, UdpServer } from './udp.ts'

/** Starts receiving; `wanted` is an engine's name or empty. Rejects with a SystemError. See `open` of both servers. */
export async function serveDatagrams(
  wanted: string,
  source: DatagramSource,
  receive: Receive,
  hold: () => () => void,
): Promise<Listener & DatagramSocket> {
  const isNative = isNativeWanted(wanted) && source.fd >= 0
  return isNative ? NativeUdpServer.open(source, receive, hold) : UdpServer.open(source, receive, hold)
}

/** Opens a client's socket, looking up the host. Rejects with a SystemError. */
export async function connectDatagrams(
  wanted: string,
  host: string,
  port: number,
  receive: (bytes: Buffer) => void,
  failed: (error: SystemError) => void,
): Promise<DatagramClient> {
  const kind = isNativeWanted(wanted) ? NativeUdpClient : UdpClient
  return kind.open(host, port, receive, failed)
}

function isNativeWanted(wanted: string): boolean {
  return chooseEngine(wanted, false).engine.name === 'native'
}
