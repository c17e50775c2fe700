// Conversion of IP addresses from bytes to text, and the longest datagram.

/** The longest payload of UDP that fits into an IPv4 packet: 65,535 minus the headers of IP (20) and UDP (8). */
export const MAX_DATAGRAM_BYTES = 65_507

/** The text of an IPv4 address, given its four bytes as one number. */
export function ipv4Text(address: number): string {
  return `${address >>> 24}.${(address >>> 16) & 0xff}.${(address >>> 8) & 0xff}.${address & 0xff}`
}

/** The text of an IPv6 address, given its 16 bytes: RFC 5952, as inet_ntop(3) writes it. */
export function ipv6Text(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, at) => bytes.readUInt16BE(2 * at))
  const [start, length] = longestZeros(groups)
  if (start === 0 && (length === 6 || (length === 5 && groups[5] === 0xffff)))
    return `${length === 6 ? '::' : '::ffff:'}${ipv4Text(bytes.readInt32BE(12))}`
  const text = (part: number[]) => part.map((group) => group.toString(16)).join(':')
  if (length < 2) return text(groups)
  return `${text(groups.slice(0, start))}::${text(groups.slice(start + length))}`
}

/** Where the longest run of zeros begins, and how long it is. */
function longestZeros(groups: readonly number[]): readonly [number, number] {
  let best: readonly [number, number] = [-1, 0]
  for (let at = 0; at < groups.length; at++) {
    let end = at
    while (groups[end] === 0) end++
    if (end - at > best[1]) best = [at, end - at]
    at = Math.max(at, end - 1)
  }
  return best
}
