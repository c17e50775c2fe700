// A terminal that closes under a process. At exit Node restores the settings of each terminal it was started on, and
// aborts if that fails with anything but EPERM. For a terminal that has gone it fails with EIO. So a server whose
// window was closed stopped in order and then died of SIGABRT, workers too, with a core dump each where those are
// enabled.

import { closeSync } from 'node:fs'
import { isatty } from 'node:tty'
import { codeOf } from '../../errors.ts'

/** Lets this process outlive its terminal: settings are not restored on a terminal that has closed. */
export function outliveTerminal(): void {
  const terminals = [0, 1, 2].filter((fd) => isatty(fd))
  if (terminals.length === 0) return
  process.on('exit', () => {
    for (const fd of terminals) if (!isatty(fd)) closeIfOpen(fd)
  })
}

function closeIfOpen(fd: number): void {
  try {
    closeSync(fd)
  } catch (error) {
    if (codeOf(error) !== 'EBADF') throw error // closed already
  }
}
