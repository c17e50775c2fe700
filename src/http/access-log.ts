// Lines of an access log: Apache's combined format, and JSON. Text from a client is escaped, so that it can neither
// start a line nor end a field.

import type { AccessLogEntry } from '../../protocols/http/access-log.ts'
import { printableJson } from '../printable.ts'

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

/** `1.2.3.4 - - [24/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "curl/8"` */
export function formatCombined(entry: AccessLogEntry): string {
  const { remoteIp, method, target, version, status, bytes, referer, userAgent } = entry
  const line = target === '-' ? escaped(method) : escaped(`${method} ${target} HTTP/${version}`)
  const who = escaped(remoteIp || '-')
  return `${who} - - [${apacheTime(entry.at)}] "${line}" ${status} ${bytes} "${escaped(referer || '-')}" "${escaped(userAgent || '-')}"`
}

export function formatJson(entry: AccessLogEntry): string {
  return printableJson(entry)
}

function apacheTime(at: Date): string {
  const two = (number: number) => String(number).padStart(2, '0')
  const day = `${two(at.getUTCDate())}/${MONTHS[at.getUTCMonth()]}/${at.getUTCFullYear()}`
  return `${day}:${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())} +0000`
}

/** Escapes as Apache does: `\xHH` for unprintable characters, quotes and backslashes. */
function escaped(text: string): string {
  return text.replace(
    /[^\x20\x21\x23-\x5b\x5d-\x7e]/g,
    (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )
}
