// Dates of HTTP (RFC 9110 section 5.6.7): one is written, made once a second and only when an answer needs it (no timer);
// three are read, and nothing that a lenient parser would take for one.

import { recently } from '../loop/clock.ts'

let text = ''
/** When the next second begins, by the monotonic clock. */
let validUntil = -1

/** The value of a Date field, now. Where the wall clock jumps it follows within a second. */
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

/** Milliseconds since 1970; NaN for what is no date of HTTP. */
export function parseHttpDate(given: string): number {
  for (const format of FORMATS) {
    const { day = '', month = '', year = '', time = '' } = format.exec(given)?.groups ?? {}
    if (time === '') continue
    const at = Date.parse(`${fourDigits(year)}-${monthOf(month)}-${day.replace(' ', '0')}T${time}Z`)
    return new Date(at).getUTCDate() === Number(day) ? at : Number.NaN // 31 February would be a day in March
  }
  return Number.NaN
}

function monthOf(name: string): string {
  return String(MONTHS.indexOf(name) / 3 + 1).padStart(2, '0') // 00 or a fraction: no month
}

/** Of RFC 850: more than 50 years ahead is in the past. */
function fourDigits(year: string): string {
  if (year.length === 4) return year
  const now = new Date().getUTCFullYear()
  const inThisCentury = Math.floor(now / 100) * 100 + Number(year)
  return String(inThisCentury > now + 50 ? inThisCentury - 100 : inThisCentury)
}
