// A stand-in for systemd: a socat receives what the service manager would; sockets come from systemd's own tool.

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import type { Running, Sandbox } from './server.ts'
import { until, within } from './until.ts'

/** Receives notifications to the service manager from now on: its `stdout`, line by line. */
export async function manager(box: Sandbox): Promise<Running> {
  const path = join(box.directory, 'notify.sock')
  const systemd = box.spawn('socat', ['-u', `UNIX-RECV:${path}`, '-'])
  await until(() => spawnSync('test', ['-S', path]).status === 0)
  box.env.NOTIFY_SOCKET = path
  return systemd
}

export async function endManager(systemd: Running): Promise<void> {
  systemd.process.kill()
  await systemd.ended
}

/**
 * Starts a server as systemd does when the first client connects to one of the sockets; `connect` makes that client.
 */
export async function activated(
  box: Sandbox,
  sockets: readonly string[],
  command: readonly string[],
  connect: () => Promise<unknown>,
  program: readonly string[] = [process.execPath],
): Promise<Running> {
  const variables = Object.keys(box.env).filter((name) =>
    /^(MILLRACE_|TEST_|NOTIFY_|WATCHDOG_|NODE_V8_COVERAGE$)/.test(name),
  )
  const passed = variables.flatMap((name) => ['-E', name])
  const server = box.spawn('systemd-socket-activate', [...passed, ...sockets, ...program, ...command])
  await server.says(/Listening on/)
  const first = connect()
  await server.says(/Press Ctrl\+C to stop/)
  await within(10_000, first)
  return server
}
