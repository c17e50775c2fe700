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
