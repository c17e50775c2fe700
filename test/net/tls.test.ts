// The TLS of a server by itself, over plain sockets: which certificate a client gets for the name that it asks for.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type ServerTlsOptions, TlsServer } from '../../src/net/tls.ts'
import { Authority } from '../support/certificates.ts'

/** The subjects that clients see which ask for these names, in this order. */
async function subjectsOf(options: ServerTlsOptions, names: readonly string[]): Promise<string[]> {
  const side = new TlsServer(options, null)
  const server = net.createServer((raw) => side.wrap(raw, (_error, secured) => secured?.on('error', () => undefined)))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as net.AddressInfo
  const subjects: string[] = []
  for (const servername of names) {
    const client = tls.connect({ port, host: '127.0.0.1', servername, rejectUnauthorized: false })
    await once(client, 'secureConnect')
    subjects.push(String(client.getPeerCertificate().subject.CN))
    client.destroy()
  }
  server.close()
  return subjects
}

test('SNI: names and wildcards have their certificates in any case (RFC 4343), a star is one label', async () => {
  const authority = new Authority()
  try {
    const [own, api, wild, last] = ['own', 'api', 'wild', 'last'].map((name) => authority.issue(name))
    const sni = { 'Api.Test': api, '*.Wild.test': wild, 'b.wild.test': last, 'a+b.test': api }
    const names = ['api.test', 'API.TEST', 'apiXtest', 'a.wild.test', 'A.wild.TEST', 'B.WILD.test', 'a.b.wild.test']
    const subjects = await subjectsOf({ ...own, sni } as ServerTlsOptions, [...names, 'a+b.test', 'aab.test'])
    assert.equal(subjects, ['api', 'api', 'own', 'wild', 'wild', 'last', 'own', 'api', 'own'])
    const SNICallback: ServerTlsOptions['SNICallback'] = (_name, done) =>
      done(
        null,
        tls.createSecureContext({ cert: readFileSync(last?.certFile ?? ''), key: readFileSync(last?.keyFile ?? '') }),
      )
    assert.equal(await subjectsOf({ ...own, sni, SNICallback } as ServerTlsOptions, ['api.test']), ['last'])
  } finally {
    authority.remove()
  }
})

test('SNI: the exact name wins over a wildcard, and the more specific wildcard over the other, in any order', async () => {
  const authority = new Authority()
  try {
    const [own, exact, near, far] = ['own', 'exact', 'near', 'far'].map((name) => authority.issue(name))
    const entries = [
      ['*.*.test', far],
      ['API.b.test', exact],
      ['*.b.test', near],
      ['*pi.b.test', own],
    ] as const
    for (const order of [entries, entries.toReversed()]) {
      const sni = Object.fromEntries(order)
      const names = ['api.b.test', 'xpi.b.test', 'c.b.test', 'c.d.test', 'test']
      const subjects = await subjectsOf({ ...own, sni } as ServerTlsOptions, names)
      assert.equal(subjects, ['exact', 'own', 'near', 'far', 'own'])
    }
  } finally {
    authority.remove()
  }
})

test('a handshake may be without limit, or have one longer than any timer of Node', async () => {
  const authority = new Authority()
  const warnings: string[] = []
  const warned = ({ name }: Error) => void warnings.push(name)
  process.on('warning', warned)
  try {
    const own = authority.issue('own')
    for (const handshakeTimeoutMs of [Number.POSITIVE_INFINITY, 2 ** 31])
      assert.equal(await subjectsOf({ ...own, handshakeTimeoutMs }, ['own']), ['own'])
    assert.equal(warnings, [])
  } finally {
    process.off('warning', warned)
    authority.remove()
  }
})

test.run()
