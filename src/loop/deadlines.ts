// Time-outs of connections, separate from the user's timers: `Timer.delAll()` must not disable a connection's
// protection, and a deadline must not keep a process alive.

import { Scheduler } from './scheduler.ts'

/** `deadlines.after(ms, fn, a, b)` and `deadlines.cancel(id)`, without a closure or an object per deadline. */
export const deadlines = new Scheduler({ keepsAlive: false })
