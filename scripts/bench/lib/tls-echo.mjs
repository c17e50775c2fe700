// The millrace server of the bench `tls`: lines under TLS. CERT_FILE and KEY_FILE are its certificate.
import { Worker } from 'millrace'

const { CERT_FILE: certFile, KEY_FILE: keyFile } = process.env
const worker = new Worker('text://127.0.0.1:0', { name: 'tls', transport: 'ssl', ssl: { certFile, keyFile } })
worker.onMessage = (connection, line) => connection.send(line)
Worker.runAll()
