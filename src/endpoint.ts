// An IP address and a port as one text: how an endpoint stands in messages, in `status` and in comparisons.

/** `0.0.0.0:80`, `[::]:80`; empty for the end of a Unix socket, which has neither. */
export function formatEndpoint(ip: string, port: number): string {
  if (ip === '') return ''
  return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`
}

/** The other way round. */
export function parseEndpoint(endpoint: string): { readonly ip: string; readonly port: number } {
  const [, ip = '', port = '0'] = /^\[?([^\]]*)\]?:(\d+)$/.exec(endpoint) ?? []
  return { ip, port: Number(port) }
}

/** Who knows where it is from and to. */
export interface Addressed {
  getRemoteIp(): string
  getRemotePort(): number
  getRemoteAddress(): string
  getLocalIp(): string
  getLocalPort(): number
  getLocalAddress(): string
  isIpV4(): boolean
  isIpV6(): boolean
}

/** As Workerman's connections are in JSON, names included. */
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
