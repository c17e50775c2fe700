// Sessions of TLS that are resumed. Each server here is a process of its own as far as TLS goes: they share nothing but
// the ticket keys, as the processes of a group do, those before a reload and those after it. A resumed handshake shows no
// certificate, so it must end as one would that does.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf } from '../../src/errors.ts'
import { type ServerTlsOptions, TlsServer } from '../../src/net/tls.ts'
import { Authority, type Certificate } from '../support/certificates.ts'
import { caseTest } from '../support/length.ts'
import { within } from '../support/until.ts'

const [ours, theirs] = [new Authority(), new Authority()]
test.after(() => ours.remove())
test.after(() => theirs.remove())
const own = ours.issue('own.test')
const alice = ours.issue('alice')
const bob = theirs.issue('bob')
const mutual = { ...own, caFile: ours.caFile, requestCert: true }
const TICKET_KEYS = Buffer.alloc(48, 7).toString('base64')
const VERSIONS = ['TLSv1.2', 'TLSv1.3'] as const

/** What the server knows of a client that it let in; and the client's session. */
interface Met {
  readonly isResumed: boolean
  readonly isAuthorized: boolean
  readonly authorizationError: string
  readonly session: Buffer | undefined
}

/** A server whose connections end once it has said whom it has met. */
class Door {
  readonly #server: net.Server
  /** Why clients were refused. */
  readonly errors: string[] = []

  private constructor(options: ServerTlsOptions) {
    const side = new TlsServer(options, { ticketKeys: TICKET_KEYS, files: {} })
    this.#server = net.createServer((raw) =>
      side.wrap(raw, (error, secured) => {
        secured?.on('error', () => undefined)
        if (error !== null || secured === null) return void this.errors.push(`${codeOf(error)} ${error?.message}`)
        const { isResumed, isAuthorized, authorizationError } = side.stateOf(secured)
        secured.end(JSON.stringify({ isResumed, isAuthorized, authorizationError }))
      }),
    )
  }

  static async open<T>(options: ServerTlsOptions, use: (door: Door) => Promise<T>): Promise<T> {
    const door = new Door(options)
    await once(door.#server.listen(0, '127.0.0.1'), 'listening')
    try {
      return await use(door)
    } finally {
      door.#server.close()
    }
  }

  /** Null if the server refuses. */
  meet(options: tls.ConnectionOptions): Promise<Met | null> {
    const { port } = this.#server.address() as net.AddressInfo
    const meeting = new Promise<Met | null>((resolve) => {
      let [said, session] = ['', undefined as Buffer | undefined]
      tls
        .connect({ port, host: '127.0.0.1', servername: 'own.test', rejectUnauthorized: false, ...options })
        .on('session', (one) => {
          session = one
        })
        .on('data', (bytes) => {
          said += bytes
        })
        .on('error', () => undefined)
        .on('close', () => resolve(said === '' ? null : { ...JSON.parse(said), session }))
    })
    return within(10_000, meeting)
  }
}

/** What `before` gives a client of this certificate, shown to `after` without any. */
async function resumed(
  before: ServerTlsOptions,
  after: ServerTlsOptions,
  first: tls.ConnectionOptions,
  then: tls.ConnectionOptions = first,
): Promise<Met | null> {
  const met = await Door.open(before, (door) => door.meet(first))
  if (met === null) throw new Error('refused in the first handshake')
  const { cert, key, ...others } = then
  return Door.open(after, (door) => door.meet({ ...others, session: met.session }))
}

function shown({ certFile, keyFile }: Certificate): tls.ConnectionOptions {
  return { cert: readFileSync(certFile), key: readFileSync(keyFile) }
}

for (const version of VERSIONS) {
  const limits = { minVersion: version, maxVersion: version }
  const asAlice = { ...limits, ...shown(alice) }
  const isRefused = (met: Met | null) => met === null || (!met.isResumed && !met.isAuthorized)
  const everyDay = caseTest(version === 'TLSv1.3')

  everyDay(
    `${version}: a client with a certificate resumes at another process, with a new certificate of the server too`,
    async () => {
      const renewed = { ...mutual, ...ours.issue('own.test') }
      for (const after of [mutual, renewed, { ...own, requestCert: true, ca: readFileSync(ours.caFile, 'utf8') }]) {
        const met = await resumed(mutual, after, asAlice)
        assert.equal([met?.isResumed, met?.isAuthorized], [true, true])
        const again = await Door.open(after, (door) => door.meet({ ...limits, session: met?.session }))
        if (met?.session !== undefined) assert.ok(again?.isAuthorized, 'with the ticket that came then')
      }
    },
  )

  everyDay(`${version}: sessions are resumed by name, too, if all names trust the same authorities`, async () => {
    const sni = {
      'a.test': { ...own, caFile: ours.caFile },
      'b.test': own,
      '*.test': { ...own, ca: readFileSync(ours.caFile) },
    }
    const options = { ...mutual, sni }
    const met = await resumed(
      options,
      options,
      { ...asAlice, servername: 'a.test' },
      { ...limits, servername: 'a.test' },
    )
    assert.equal([met?.isResumed, met?.isAuthorized], [true, true])
  })

  everyDay(`${version}: a session of one name is worth nothing at a name that trusts somebody else`, async () => {
    const sni = { 'a.test': { ...own, caFile: ours.caFile }, 'b.test': { ...own, caFile: theirs.caFile } }
    for (const rejectUnauthorized of [true, false]) {
      const options = { ...mutual, rejectUnauthorized, sni }
      const [a, b] = [{ servername: 'a.test' }, { servername: 'b.test' }]
      await Door.open(options, async (door) => {
        const { session } = (await door.meet({ ...asAlice, ...a })) as Met
        assert.ok(isRefused(await door.meet({ ...limits, ...b, session })), 'the same process')
        assert.ok((await door.meet({ ...limits, ...b, ...shown(bob) }))?.isAuthorized)
      })
      assert.ok(isRefused(await resumed(options, options, { ...asAlice, ...a }, { ...limits, ...b })), 'another one')
      assert.ok(isRefused(await resumed(mutual, options, { ...asAlice, ...a }, { ...limits, ...b })), 'after a reload')
    }
  })

  everyDay(`${version}: a session is worth nothing once a full handshake with it would fail`, async () => {
    const chosen: ServerTlsOptions['SNICallback'] = (_name, done) =>
      done(null, tls.createSecureContext({ ...shown(own), ca: readFileSync(theirs.caFile) }))
    const sni = (caFile: string) => ({ 'own.test': { ...own, caFile } })
    for (const [what, before, after] of [
      ['another authority', mutual, { ...mutual, caFile: theirs.caFile }],
      ['its certificate revoked', mutual, { ...mutual, crl: ours.revoke(alice) }],
      ['more revoked', { ...mutual, crl: ours.revoke(bob) }, { ...mutual, crl: ours.revoke(alice, bob) }],
      ['in a list of bytes', { ...mutual, crl: view(ours.revoke()) }, { ...mutual, crl: view(ours.revoke(alice)) }],
      ['a name changed', { ...mutual, sni: sni(ours.caFile) }, { ...mutual, sni: sni(theirs.caFile) }],
      ['revoked by name', mutual, { ...mutual, sni: { '*.test': { ...mutual, crl: ours.revoke(alice) } } }],
      ['a function by name', mutual, { ...mutual, SNICallback: chosen }],
      [
        'strict since',
        { ...mutual, caFile: theirs.caFile, rejectUnauthorized: false },
        { ...mutual, caFile: theirs.caFile },
      ],
    ] as const) {
      assert.ok(isRefused(await resumed(before, after, asAlice)), what)
      const full = await Door.open(after, (door) => door.meet(asAlice))
      assert.ok(isRefused(full), `${what}: full handshake`)
    }
  })

  everyDay(`${version}: a certificate that has expired meanwhile is refused as in a full handshake`, async () => {
    for (const rejectUnauthorized of [true, false]) {
      const options = { ...mutual, rejectUnauthorized }
      const met = await Door.open(options, (door) => door.meet(asAlice))
      const { now } = Date
      Date.now = () => now() + 3 * 86_400_000 // certificates here are valid for two
      try {
        await Door.open(options, async (door) => {
          const late = await door.meet({ ...limits, session: met?.session })
          if (rejectUnauthorized) assert.equal(door.errors, ["CERT_HAS_EXPIRED the client's certificate was refused"])
          else assert.equal([late?.isAuthorized, late?.authorizationError], [false, 'CERT_HAS_EXPIRED'])
        })
      } finally {
        Date.now = now
      }
    }
  })
}

test('a key that both ends know is asked for in each handshake: it may be withdrawn', async () => {
  const psk = Buffer.alloc(16, 1)
  const limits = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2', ciphers: 'PSK' } as const
  const options = {
    ...limits,
    pskCallback: (_socket: unknown, identity: string) => (identity === 'alice' ? psk : null),
  }
  const client = { ...limits, pskCallback: () => ({ psk, identity: 'alice' }), checkServerIdentity: () => undefined }
  await Door.open(options, async (door) => {
    const met = await door.meet(client)
    assert.is(met?.isResumed, false)
    assert.is((await door.meet({ ...client, session: met?.session }))?.isResumed, false)
  })
})

/** The same bytes in a kind of view that JSON knows nothing of. */
function view(text: string): Buffer {
  return new DataView(new TextEncoder().encode(text).buffer) as never
}

test.run()
