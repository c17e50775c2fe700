// Which TLS sessions a server resumes. A resumed handshake shows no certificate and asks no callback: it repeats what
// an earlier one has decided, perhaps in another process or under other settings; and OpenSSL resumes before it looks
// at the name the client asks for. So a session counts only under the settings it was made under, and none are given
// where the name, or a callback, decides about trust (the class of fault of CVE-2025-23419).

import type nodeTls from 'node:tls'
import { crypto } from '../builtins.ts'

/** Settings without a part in whom a server trusts, and how: their change ends no session. */
const NOT_ABOUT_TRUST = new Set(['cert', 'key', 'passphrase', 'ticketKeys', 'handshakeTimeout'])

/**
 * The settings of `tls.createServer` that decide which sessions are resumed.
 * @param names the certificates by name, without those of a user's own SNICallback
 */
export function sessionSettings(
  settings: nodeTls.TlsOptions,
  names: readonly nodeTls.SecureContextOptions[],
): Pick<nodeTls.TlsOptions, 'sessionIdContext' | 'secureOptions'> {
  const asked = Object.entries(settings).filter(([name]) => !NOT_ABOUT_TRUST.has(name))
  // Without a `ca`, whom Node trusts depends on these.
  const sessionIdContext = digest([process.version, process.env.NODE_EXTRA_CA_CERTS ?? '', Object.fromEntries(asked)])
  if (isTrustCommon(settings, names)) return { sessionIdContext }
  return { sessionIdContext, secureOptions: (settings.secureOptions ?? 0) | crypto().constants.SSL_OP_NO_TICKET }
}

/** Whether these settings alone, without a callback and for every name alike, decide who is trusted. */
function isTrustCommon(settings: nodeTls.TlsOptions, names: readonly nodeTls.SecureContextOptions[]): boolean {
  if (settings.pskCallback !== undefined) return false
  if (settings.requestCert !== true) return true
  const trust = trustOf(settings)
  return settings.SNICallback === undefined && names.every((one) => trustOf(one) === trust)
}

/** What differs between two that do not trust the same certificates. */
function trustOf(settings: nodeTls.SecureContextOptions): string {
  const { ca, crl, pfx } = settings
  return digest([ca, crl, pfx, Reflect.get(settings, 'allowPartialTrustChain')])
}

/** Of all but functions. 32 characters: OpenSSL accepts no more in a session context. */
function digest(value: unknown): string {
  const text = JSON.stringify(plain(value))
  return crypto().createHash('sha256').update(text).digest('hex').slice(0, 32)
}

/** For JSON, which would make digits of a Buffer and nothing of a DataView. Equal text and bytes are equal. */
function plain(value: unknown): unknown {
  if (typeof value === 'string') return Buffer.from(value).toString('base64')
  if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64')
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, plain(one)]))
}

/**
 * Whether a session was resumed whose client's certificate has expired since: OpenSSL looks at its dates in a full
 * handshake only, and each resumption renews the ticket.
 */
export function hasExpired(secured: nodeTls.TLSSocket): boolean {
  if (!secured.authorized || !secured.isSessionReused()) return false
  return Date.parse(secured.getPeerX509Certificate()?.validTo ?? '') < Date.now()
}
