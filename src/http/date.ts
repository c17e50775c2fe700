// HTTP dates (RFC 9110 section 5.6.7). One format is written, once a second and only when an answer needs it (no
// timer); three are read, and nothing else that a lenient parser would accept.

import { recently } from '../loop/clock.ts'

let text = ''
/** When the next second begins, by the monotonic clock. */
let validUntil = -1

/** Returns the current value of a Date field. It follows a jump of the wall clock within a second. */
export function httpDate(): string {
  const at = recently()
  if (at < validUntil) return text
  const now = Date.now()
  validUntil = at + 1000 - (now % 1000)
  text = new Date(now).toUTCString()
  return text
}

const MONTHS = 'JanFebMarAprMayJunJulAugSepOctNovDec'
const TIME = '(?<time>\\d\\d:\\d\\d:\\d\\d)'
const FORMATS = [
  `[A-Z][a-z]{2}, (?<day>\\d\\d) (?<month>[A-Z][a-z]{2}) (?<year>\\d{4}) ${TIME} GMT`,
  `[A-Z][a-z]{5,8}, (?<day>\\d\\d)-(?<month>[A-Z][a-z]{2})-(?<year>\\d\\d) ${TIME} GMT`,
  `[A-Z][a-z]{2} (?<month>[A-Z][a-z]{2}) (?<day>[ \\d]\\d) ${TIME} (?<year>\\d{4})`,
].map((format) => new RegExp(`^${format}$`))

/** Returns milliseconds since 1970, or NaN for anything that is not an HTTP date. */
export function parseHttpDate(given: string): number {
  for (const format of FORMATS) {
    const { day = '', month = '', year = '', time = '' } = format.exec(given)?.groups ?? {}
    if (time === '') continue
    const at = Date.parse(`${fourDigits(year)}-${monthOf(month)}-${day.replace(' ', '0')}T${time}Z`)
    return new Date(at).getUTCDate() === Number(day) ? at : Number.NaN // 31 February would become a day in March
  }
  return Number.NaN
}

function monthOf(name: string): string {
  return String(MONTHS.indexOf(name) / 3 + 1).padStart(2, '0') // 00 or a fraction: no month
}

/** Expands a two-digit year of the RFC 850 format: one more than 50 years ahead is in the past. */
function fourDigits(year: string): string {
  if (year.length === 4) return year
  const now = new Date().getUTCFullYear()
  const inThisCentury = Math.floor(now / 100) * 100 + Number(year)
  return String(inThisCentury > now + 50 ? inThisCentury - 100 : inThisCentury)
}
