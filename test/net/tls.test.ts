// The TLS of a server by itself, over plain sockets: which certificate a client gets for the name that it asks for.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf } from '../../src/errors.ts'
import { type ClientTlsOptions, type ServerTlsOptions, TlsClient, TlsServer } from '../../src/net/tls.ts'
import { Authority } from '../support/certificates.ts'
import { within } from '../support/until.ts'

/** Runs `use` with the port of a server of ours, and with why its handshakes have failed. */
async function served(
  options: ServerTlsOptions,
  use: (port: number, failures: string[]) => Promise<unknown>,
): Promise<void> {
  const failures: string[] = []
  const side = new TlsServer(options, null)
  const server = net.createServer((raw) =>
    side.wrap(raw, (error, secured) => {
      if (error !== null) failures.push(error.message)
      secured?.on('error', () => undefined).end('hello')
    }),
  )
  await once(server.listen(0, '127.0.0.1'), 'listening')
  try {
    await within(10_000, use((server.address() as net.AddressInfo).port, failures))
  } finally {
    server.close()
  }
}

/** What a client of node:tls gets to read before the connection ends, however that ends. */
async function readBy(options: tls.ConnectionOptions): Promise<string> {
  const client = tls.connect({ host: '127.0.0.1', rejectUnauthorized: false, ...options }).on('error', () => undefined)
  const pieces: Buffer[] = []
  client.on('data', (piece) => pieces.push(piece))
  await new Promise((resolve) => client.once('close', resolve))
  return Buffer.concat(pieces).toString()
}

/** How the handshake of a client of ours ends: the server's text, or why it failed. */
async function outcomeOf(options: ClientTlsOptions, port: number): Promise<string> {
  const raw = net.connect(port, '127.0.0.1').on('error', () => undefined)
  await once(raw, 'connect')
  return new Promise((resolve) => {
    new TlsClient(options, 'localhost').wrap(raw, (error, secured) => {
      if (error !== null) resolve(error.message)
      else secured?.once('data', (bytes) => resolve(String(bytes)))
      if (error !== null) secured?.destroy()
    })
  })
}

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
    const sni = {
      ...{ 'Api.Test': api, '*.Wild.test': wild, 'b.wild.test': last, 'a+b.test': api },
      ...{ 'B\u00fccher.test': api, '*.b\u00fccher.test': wild },
    }
    const names = ['api.test', 'API.TEST', 'apiXtest', 'a.wild.test', 'A.wild.TEST', 'B.WILD.test', 'a.b.wild.test']
    const subjects = await subjectsOf({ ...own, sni } as ServerTlsOptions, [...names, 'a+b.test', 'aab.test'])
    assert.equal(subjects, ['api', 'api', 'own', 'wild', 'wild', 'last', 'own', 'api', 'own'])
    const international = ['xn--bcher-kva.test', 'a.XN--bcher-kva.test', 'xn--bcher-kva']
    assert.equal(await subjectsOf({ ...own, sni } as ServerTlsOptions, international), ['api', 'wild', 'own'])
    for (const name of ['b*\u00fc.test', 'a\u200db.test', '\u00fc/x'])
      assert.throws(
        () => new TlsServer({ ...own, sni: { [name]: api ?? {} } }, null),
        (error: Error) => codeOf(error) === 'ERR_TLS_OPTION' && error.message.includes(`ssl.sni['${name}']`),
        name,
      )
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

test('SNI: every name trusts whom the server trusts, and nobody it has revoked, unless it has its own authorities', async () => {
  const [ours, theirs] = [new Authority(), new Authority()]
  try {
    const own = ours.issue('own')
    const clients = { alice: ours.issue('alice'), mallory: ours.issue('mallory'), bob: theirs.issue('bob') }
    const crl = ours.revoke(clients.mallory)
    const sni = {
      'plain.test': own,
      'again.test': { ...own, ca: readFileSync(ours.caFile) },
      'theirs.test': { ...own, caFile: theirs.caFile, crl: theirs.revoke() },
      'all.test': { ...own, crl: [] },
    }
    const letIn: Record<string, readonly string[]> = {
      'own.test': ['alice'],
      'plain.test': ['alice'],
      'again.test': ['alice'],
      'theirs.test': ['bob'],
      'all.test': ['alice', 'mallory'],
    }
    await served({ ...own, caFile: ours.caFile, crl, requestCert: true, sni }, async (port) => {
      for (const [servername, expected] of Object.entries(letIn))
        for (const [who, { certFile, keyFile }] of Object.entries(clients)) {
          const shown = { cert: readFileSync(certFile), key: readFileSync(keyFile) }
          const said = await readBy({ ...shown, servername, port })
          assert.is(said, expected.includes(who) ? 'hello' : '', `${who} at ${servername}`)
        }
    })
  } finally {
    ours.remove()
    theirs.remove()
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

test('an SNICallback that fails, at once or later, costs the handshake of who asked; the others go on', async () => {
  const authority = new Authority()
  try {
    const own = authority.issue('own')
    const context = tls.createSecureContext({ cert: readFileSync(own.certFile), key: readFileSync(own.keyFile) })
    const ways: Record<string, (done: Parameters<NonNullable<ServerTlsOptions['SNICallback']>>[1]) => unknown> = {
      'throws.test': () => {
        throw new Error('no such name')
      },
      'rejects.test': async () => {
        throw new Error('no such name')
      },
      'answers.test': async (done) => done(null, context),
      'answers-and-rejects.test': async (done) => {
        done(null, context)
        throw new Error('too late to matter')
      },
      'answers-and-rejects-with-no-stack.test': async (done) => {
        done(null, context)
        const get = () => {
          throw new Error('nobody may look')
        }
        throw Object.defineProperty(new Error('too late to matter'), 'stack', { get })
      },
    }
    const SNICallback = (name: string, done: never) => ways[name]?.(done)
    await served({ ...own, SNICallback } as ServerTlsOptions, async (port, failures) => {
      const read: string[] = []
      for (const servername of Object.keys(ways)) read.push(await readBy({ port, servername }))
      assert.equal(read, ['', '', 'hello', 'hello', 'hello'])
      assert.equal(failures, ['no such name', 'no such name'])
    })
  } finally {
    authority.remove()
  }
})

test('a checkServerIdentity that throws refuses the server, and so does one that is async', async () => {
  const authority = new Authority()
  try {
    const ca = readFileSync(authority.caFile)
    await served(authority.issue('localhost'), async (port) => {
      const checks = [
        () => undefined,
        () => new Error('returned'),
        () => {
          throw new Error('thrown')
        },
        async () => {
          throw new Error('rejected')
        },
      ]
      const outcomes: string[] = []
      for (const check of checks)
        outcomes.push(await outcomeOf({ ca, checkServerIdentity: check as () => undefined }, port))
      assert.equal(outcomes.slice(0, 3), ['hello', 'returned', 'thrown'])
      assert.match(outcomes[3] ?? '', /checkServerIdentity.*promise/)
    })
  } finally {
    authority.remove()
  }
})

test('an async pskCallback costs the handshake, of a server and of a client', async () => {
  const psk = Buffer.from('a secret of both')
  const common = { ciphers: 'PSK', maxVersion: 'TLSv1.2' as const }
  const asynchronous = async () => {
    throw new Error('on purpose')
  }
  const refuses = { ...common, pskCallback: asynchronous as never }
  const knows = { psk, identity: 'us' }
  await served(refuses, async (port, failures) => {
    assert.is(await readBy({ ...common, port, pskCallback: () => knows, checkServerIdentity: () => undefined }), '')
    assert.match(failures.join(), /pskCallback.*promise/)
  })
  await served({ ...common, pskCallback: () => psk }, async (port) => {
    const client = { ...common, checkServerIdentity: () => undefined }
    assert.is(await outcomeOf({ ...client, pskCallback: () => knows }, port), 'hello')
    assert.match(await outcomeOf({ ...client, pskCallback: asynchronous as never }, port), /pskCallback.*promise/)
  })
})

test('an ALPNCallback that rejects costs the handshake, and not the process', async () => {
  const authority = new Authority()
  const asynchronous = async () => {
    throw new Error('on purpose')
  }
  try {
    const options = { ...authority.issue('own'), ALPNCallback: asynchronous as never }
    await served(options, async (port, failures) => {
      assert.is(await readBy({ port, ALPNProtocols: ['h2'] }), '')
      assert.match(failures.join(), /ALPNCallback.*promise/)
    })
  } finally {
    authority.remove()
  }
})

test.run()
