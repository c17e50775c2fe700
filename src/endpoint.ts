// An IP address and a port as one text, as endpoints appear in messages, in `status` and in comparisons.

/** Returns `0.0.0.0:80` or `[::]:80`; empty for the end of a Unix socket, which has neither. */
export function formatEndpoint(ip: string, port: number): string {
  if (ip === '') return ''
  return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`
}

/** The inverse of `formatEndpoint`. */
export function parseEndpoint(endpoint: string): { readonly ip: string; readonly port: number } {
  const [, ip = '', port = '0'] = /^\[?([^\]]*)\]?:(\d+)$/.exec(endpoint) ?? []
  return { ip, port: Number(port) }
}

/** Anything with a local and a remote address. */
interface Addressed {
  getRemoteIp(): string
  getRemotePort(): number
  getRemoteAddress(): string
  getLocalIp(): string
  getLocalPort(): number
  getLocalAddress(): string
  isIpV4(): boolean
  isIpV6(): boolean
}

/** JSON as for Workerman's connections, names included. */
export function addressesOf(one: Addressed): Record<string, unknown> {
  return {
    getRemoteIp: one.getRemoteIp(),
    remotePort: one.getRemotePort(),
    getRemoteAddress: one.getRemoteAddress(),
    getLocalIp: one.getLocalIp(),
    getLocalPort: one.getLocalPort(),
    getLocalAddress: one.getLocalAddress(),
    isIpV4: one.isIpV4(),
    isIpV6: one.isIpV6(),
  }
}
