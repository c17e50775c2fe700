// The Date field (RFC 9110 section 6.6.1), made once a second and only when an answer needs it: no timer.

let second = -1
let text = ''

/** The value of a Date field, now. Cost: one look at the clock. */
export function httpDate(): string {
  const now = Math.floor(Date.now() / 1000)
  if (now === second) return text
  second = now
  text = new Date(now * 1000).toUTCString()
  return text
}
