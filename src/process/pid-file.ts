// The pid file, for people and their scripts. We never read it to decide which process to signal.

import { closeSync, rmSync, writeSync } from 'node:fs'
import { checkFile, fileError, openFile, readShortFile } from './open-file.ts'

const MODE = 0o644

/** Throws a CommandError if no pid file could be written there. */
export function checkPidFile(path: string): void {
  checkFile(path, MODE)
}

export function writePidFile(path: string, pid: number): void {
  const fd = openFile(path, 'replace', MODE)
  try {
    writeSync(fd, `${pid}\n`)
  } catch (cause) {
    throw fileError(cause, 'write', path)
  } finally {
    closeSync(fd)
  }
}

/** Removes the file, unless another server has written its own there. */
export function removePidFile(path: string): void {
  let text = ''
  try {
    text = readShortFile(path)
  } catch {
    return // ENOENT: it is gone
  }
  if (text === `${process.pid}\n`) rmSync(path, { force: true })
}
