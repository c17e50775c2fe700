// A terminal that closes under a process. At its exit Node gives each terminal that it was started on the settings of then, and
// aborts when that fails with anything but EPERM: of one that is gone it fails with EIO. So a server whose window was closed
// stopped in order and then died of SIGABRT, workers too, with a core dump each where those are on.

import { closeSync } from 'node:fs'
import { isatty } from 'node:tty'
import { codeOf } from '../../errors.ts'

/** From now on this process can end after its terminal has: what is closed is not given anything back. */
export function outliveTerminal(): void {
  const terminals = [0, 1, 2].filter((fd) => isatty(fd))
  if (terminals.length === 0) return
  process.on('exit', () => {
    for (const fd of terminals) if (!isatty(fd)) closeQuietly(fd)
  })
}

function closeQuietly(fd: number): void {
  try {
    closeSync(fd)
  } catch (error) {
    if (codeOf(error) !== 'EBADF') throw error // somebody has closed it
  }
}
