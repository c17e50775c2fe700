// The grammar of a host and port, as used in Host and in absolute-form targets (RFC 3986 section 3.2.2).

/**
 * Whether `value` is a host with an optional port (RFC 9110 section 7.2), without the comma that RFC 3986 would allow
 * in a name.
 */
export function isHost(value: string): boolean {
  const found = HOST.exec(value)
  if (found === null) return false
  const [, address, port = '0'] = found
  return Number(port) <= 65535 && (address === undefined || isAddress(address))
}

const HOST = /^(?:\[([^\]]+)\]|(?:[a-z0-9._~!$&'()*+;=-]|%[0-9a-f]{2})+)(?::(\d{0,5}))?$/i
const IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/

/** The address that a proxy reports, without the port that some add; null if it is not an address. */
export function addressIn(text: string): string | null {
  const [, v6, v4] = /^(?:\[([^\]]+)\]|(\d[\d.]*))(?::\d{1,5})?$/.exec(text) ?? []
  const address = v6 ?? v4 ?? text
  return IPV4.test(address) || isIpV6(address) ? address : null
}

/** The text between brackets: IPv6, or an address of a future version (RFC 3986 section 3.2.2). */
function isAddress(text: string): boolean {
  return /^v[0-9a-f]+\.[a-z0-9._~!$&'()*+,;=:-]+$/i.test(text) || isIpV6(text)
}

function isIpV6(text: string): boolean {
  const halves = text.split('::')
  if (halves.length > 2) return false
  const pieces = halves.flatMap((half) => (half === '' ? [] : half.split(':')))
  const last = text.endsWith('::') ? '' : (pieces.at(-1) ?? '')
  const isMixed = last.includes('.')
  if (isMixed && !IPV4.test(last)) return false
  const groups = isMixed ? pieces.slice(0, -1) : pieces
  const size = groups.length + (isMixed ? 2 : 0)
  return groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group)) && (halves.length === 2 ? size <= 7 : size === 8)
}
