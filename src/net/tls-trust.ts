// Whom a server trusts at the names of `ssl.sni`. A client chooses the name, so that must not choose who is let in:
// node:tls takes a context as it is, and one without a `ca` trusts every authority that Node knows.

import type nodeTls from 'node:tls'

type Settings = nodeTls.SecureContextOptions

/**
 * The settings of a name, with the server's authorities if it has none of its own, and with the server's revocations if
 * it has none. To revoke nothing at a name, it has an empty `crl`.
 */
export function trusting(own: Settings, server: Settings): Settings {
  const crl = own.crl ?? server.crl
  if ((own.ca ?? null) !== null) return { ...own, crl }
  // Which says how the authorities are meant, so it goes with them.
  const allowPartialTrustChain = own.allowPartialTrustChain ?? server.allowPartialTrustChain
  return { ...own, ca: server.ca, crl, allowPartialTrustChain }
}
