// Where the log of a server is. If it is not in the run directory, its path is there, for `logs`: that is often asked
// when the server has died, and only the server knows what its code and flags have chosen.

import { closeSync, rmSync, writeSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import { fileError, openFile, readShortFile } from './open-file.ts'

const MODE = 0o600

/** A daemon's, unless its code or flags name another one. */
export function defaultLog(runDir: string): string {
  return join(runDir, 'millrace.log')
}

function recordIn(runDir: string): string {
  return join(runDir, 'log-file')
}

/**
 * Records where the log is from now on.
 * @param path absolute; empty if a terminal is the log
 */
export function recordLog(runDir: string, path: string): void {
  const record = recordIn(runDir)
  if (path === '' || path === defaultLog(runDir)) return rmSync(record, { force: true })
  const fd = openFile(record, 'replace', MODE)
  try {
    writeSync(fd, path)
  } catch (cause) {
    throw fileError(cause, 'write', record)
  } finally {
    closeSync(fd)
  }
}

/** Where the last server of this run directory has left its log, as far as that is recorded, and then where usual. */
export function logsOf(runDir: string): string[] {
  const recorded = recordedIn(runDir)
  return isAbsolute(recorded) ? [recorded, defaultLog(runDir)] : [defaultLog(runDir)]
}

function recordedIn(runDir: string): string {
  try {
    return readShortFile(recordIn(runDir))
  } catch {
    return '' // ENOENT: it is where it usually is
  }
}
