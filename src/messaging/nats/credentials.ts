// Credentials in NATS's addresses: `nats://user:password@host`, or `nats://token@host`, which its own tools and
// NATS_URL have. The Node client takes them beside the addresses only, one for all, and silently drops those within.

import { UsageError, works } from '../../errors.ts'

/** What the client takes. */
type Credentials = { readonly user: string; readonly pass: string } | { readonly token: string }

const BESIDE = ['user', 'pass', 'token', 'authenticator'] as const

/** The options of the client with the credentials beside the addresses. Throws UsageError, which does not show them. */
export function withCredentials(client: object): object {
  const { servers } = client as { readonly servers?: unknown }
  const addresses = [servers].flat().filter((one) => typeof one === 'string')
  const [found = '', ...others] = new Set(addresses.map(userInfoOf))
  if (others.length > 0) throw bad('addresses have different credentials, and the NATS client takes one for all')
  if (found === '') return client
  if (BESIDE.some((name) => Reflect.get(client, name) !== undefined))
    throw bad('there are credentials in the address and beside it')
  return { ...client, servers: addresses.map(withoutUserInfo), ...read(found) }
}

/** What is before the last `@`; empty for nothing. */
function userInfoOf(address: string): string {
  return withoutScheme(address).slice(0, Math.max(0, withoutScheme(address).lastIndexOf('@')))
}

function withoutUserInfo(address: string): string {
  const rest = withoutScheme(address)
  return address.slice(0, address.length - rest.length) + rest.slice(rest.lastIndexOf('@') + 1)
}

function withoutScheme(address: string): string {
  return address.replace(/^\s*[a-z]+:\/\//i, '')
}

function read(userInfo: string): Credentials {
  if (!works(() => decodeURIComponent(userInfo))) throw bad('the credentials in the address must be percent-encoded')
  const colon = userInfo.indexOf(':')
  if (colon === -1) return { token: decodeURIComponent(userInfo) }
  const [user, pass] = [userInfo.slice(0, colon), userInfo.slice(colon + 1)]
  return { user: decodeURIComponent(user), pass: decodeURIComponent(pass) }
}

function bad(why: string): UsageError {
  return new UsageError('ERR_BAD_OPTION', `a Cluster: nats: ${why}`)
}
