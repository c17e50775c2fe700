// What HTTP needs of the machine, for a protocol that has no disk and no clock of its own.

import { isIP } from 'node:net'
import type { HttpServices } from '../../protocols/http/settings.ts'
import { log } from '../log.ts'
import { TrustedPeers } from '../net/proxy-protocol.ts'
import { formatCombined, formatJson } from './access-log.ts'
import { httpDate } from './date.ts'
import { openFile } from './files.ts'
import { readUploads } from './uploads.ts'

export const httpServices = {
  date: httpDate,
  wallClock: () => Date.now(),
  openFile,
  readUploads,
  trusts(proxies: readonly string[]) {
    const trusted = new TrustedPeers(proxies, 'trustProxy')
    return (ip: string) => (ip === '' || isIP(ip) !== 0) && trusted.has(ip)
  },
  accessLog(format: 'combined' | 'json') {
    const line = format === 'json' ? formatJson : formatCombined
    return (entry) => log(line(entry))
  },
} satisfies HttpServices
