// Certificates for a test, made by openssl(1) in a folder of their own: an authority and the certificates it signs.

import { execFileSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Paths of PEM files. */
export interface Certificate {
  readonly certFile: string
  readonly keyFile: string
}

export class Authority {
  readonly folder = mkdtempSync(join(tmpdir(), 'mr-ca-'))
  readonly caFile: string
  readonly #own: Certificate
  #serial = 1

  constructor() {
    this.#own = this.#make('authority', ['-x509', '-subj', '/CN=authority', '-days', '2'])
    this.caFile = this.#own.certFile
  }

  /** Issues one for these names and IP addresses; the first is the subject. */
  issue(...names: string[]): Certificate {
    const [subject = ''] = names
    const file = `${subject.replace(/\W/g, '_')}-${this.#serial++}`
    const request = this.#make(file, ['-subj', `/CN=${subject}`])
    const extensions = join(this.folder, `${file}.ext`)
    writeFileSync(
      extensions,
      `subjectAltName=${names.map((name) => (/^[\d.]+$/.test(name) ? `IP:${name}` : `DNS:${name}`)).join(',')}`,
    )
    const certFile = join(this.folder, `${file}.crt`)
    openssl(
      ...['x509', '-req', '-in', request.certFile, '-CA', this.caFile, '-CAkey', this.#own.keyFile],
      ...['-set_serial', String(this.#serial), '-days', '2', '-extfile', extensions, '-out', certFile],
    )
    return { certFile, keyFile: request.keyFile }
  }

  /** A list in PEM that revokes these certificates, or none. */
  revoke(...certificates: Certificate[]): string {
    const rows = certificates.map(({ certFile }) => {
      const { serialNumber } = new X509Certificate(readFileSync(certFile))
      return `R\t991231235959Z\t200101000000Z\t${serialNumber}\tunknown\t/CN=revoked\n`
    })
    const [index, config] = [join(this.folder, 'index.txt'), join(this.folder, 'ca.cnf')]
    writeFileSync(index, rows.join(''))
    writeFileSync(config, `[ca]\ndefault_ca=own\n[own]\ndatabase=${index}\ndefault_md=sha256\ndefault_crl_days=2\n`)
    const list = join(this.folder, 'revoked.crl')
    openssl(...['ca', '-gencrl', '-config', config, '-cert', this.caFile, '-keyfile', this.#own.keyFile, '-out', list])
    return readFileSync(list, 'utf8')
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }

  #make(name: string, args: readonly string[]): Certificate {
    const [certFile, keyFile] = [join(this.folder, `${name}.pem`), join(this.folder, `${name}.key`)]
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', keyFile]
    openssl('req', '-new', ...key, '-out', certFile, ...args)
    return { certFile, keyFile }
  }
}

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] })
}
