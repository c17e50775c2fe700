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
export abstract class Addressed {
  /** Empty for a Unix socket, as are all addresses. */
  abstract getRemoteIp(): string
  /** 0 on a Unix socket. */
  abstract getRemotePort(): number
  abstract getLocalIp(): string
  /** 0 on a Unix socket. */
  abstract getLocalPort(): number

  /** Returns `1.2.3.4:567` or `[::1]:567`. */
  getRemoteAddress(): string {
    return formatEndpoint(this.getRemoteIp(), this.getRemotePort())
  }

  /** Returns `1.2.3.4:80` or `[::1]:80`. */
  getLocalAddress(): string {
    return formatEndpoint(this.getLocalIp(), this.getLocalPort())
  }

  /** By the peer's address; false on a Unix socket. */
  isIpV4(): boolean {
    return this.getRemoteIp() !== '' && !this.isIpV6()
  }

  /** By the peer's address; false on a Unix socket. */
  isIpV6(): boolean {
    return this.getRemoteIp().includes(':')
  }
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
