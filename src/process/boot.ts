// How a process finds out what it is: the other side of spawn.ts, which a worker does not load.

import { Socket } from 'node:net'
import { Channel } from './channel.ts'
import type { FromChild, MasterBoot, ToChild } from './messages.ts'

/** Where a child finds its channel. Deleted by the child before any user code runs. */
export const CHANNEL_VARIABLE = 'MILLRACE_CHANNEL'
export const CHANNEL_FD = 3
/** Of a process that became a master by itself: nobody is at the other end of a channel, so its boot is here. */
export const BOOT_VARIABLE = 'MILLRACE_BOOT'

/** In a process that became what it is: what that is, or null. */
export function takeBoot(): MasterBoot | null {
  const boot = process.env[BOOT_VARIABLE]
  delete process.env[BOOT_VARIABLE]
  return boot === undefined || boot === '' ? null : (JSON.parse(boot) as MasterBoot)
}

/** In a child: the channel, or null in a process that a person started. */
export function takeChannel(): Channel<ToChild, FromChild> | null {
  const fd = process.env[CHANNEL_VARIABLE]
  delete process.env[CHANNEL_VARIABLE]
  if (fd !== String(CHANNEL_FD)) return null
  return new Channel(new Socket({ fd: CHANNEL_FD, readable: true, writable: true }))
}
