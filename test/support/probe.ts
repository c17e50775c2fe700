// One HTTP request to a server's probes and metrics.

import http from 'node:http'

export interface Probe {
  code: number
  headers: http.IncomingHttpHeaders
  body: string
}

/** One request on a connection of its own, to a port or a path. */
export function probe(to: number | string, path: string, method = 'GET', headers = {}): Promise<Probe> {
  const at = typeof to === 'number' ? { port: to, host: '127.0.0.1' } : { socketPath: to }
  return new Promise((resolve, reject) => {
    const request = http.request({ ...at, path, method, headers, agent: false }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (text) => {
        body += text
      })
      response.on('end', () => resolve({ code: response.statusCode ?? 0, headers: response.headers, body }))
    })
    request.on('error', reject).end()
  })
}
