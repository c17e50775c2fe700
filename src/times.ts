// Times as people read them, in log lines, tables and messages.

/** `3.2 s`. */
export function inSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}

/** `YYYY-mm-dd HH:MM:SS` by the clock of this machine. */
export function localTime(date: Date): string {
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19).replace('T', ' ')
}
