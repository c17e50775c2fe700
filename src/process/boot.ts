// How a process learns its role. This is the receiving side of spawn.ts, kept separate so that a worker does not load
// that file.

import { Socket } from 'node:net'
import { Channel } from './channel.ts'
import type { FromChild, MasterBoot, ToChild } from './messages.ts'

/** Tells a child which descriptor its channel is. The child deletes it before any user code runs. */
export const CHANNEL_VARIABLE = 'MILLRACE_CHANNEL'
export const CHANNEL_FD = 3
/**
 * The boot message of a process that became a master by execve(2): no process is at the other end of a channel, so the
 * message travels in the environment.
 */
export const BOOT_VARIABLE = 'MILLRACE_BOOT'

/** In a process that became a master by execve(2): its boot message. Null in any other process. */
export function takeBoot(): MasterBoot | null {
  const boot = process.env[BOOT_VARIABLE]
  delete process.env[BOOT_VARIABLE]
  return boot === undefined || boot === '' ? null : (JSON.parse(boot) as MasterBoot)
}

/** In a child: the channel to its parent. Null in a process that a person started. */
export function takeChannel(): Channel<ToChild, FromChild> | null {
  const fd = process.env[CHANNEL_VARIABLE]
  delete process.env[CHANNEL_VARIABLE]
  if (fd !== String(CHANNEL_FD)) return null
  const stream = new Socket({ fd: CHANNEL_FD, readable: true, writable: true })
  return new Channel(stream, Number.POSITIVE_INFINITY) // whoever has started this process may send it anything
}
