// TLS with certificates that change without losing a connection: renew the files, then `reload`.
//
//   openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem \
//     -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost
//   node dist/start.js start dist/examples/tls.js
//   openssl s_client -quiet -connect 127.0.0.1:8888          and type a line
//   node dist/start.js reload dist/examples/tls.js           a broken certificate is refused, and the old one serves on

import { Worker } from 'millrace'

const { CERT_FILE = 'cert.pem', KEY_FILE = 'key.pem' } = process.env

const worker = new Worker('text://0.0.0.0:8888', {
  name: 'tls',
  count: 2,
  transport: 'ssl',
  ssl: { certFile: CERT_FILE, keyFile: KEY_FILE },
})

worker.onMessage = (connection, line) => {
  const { version, cipher, isResumed } = connection.tls ?? {}
  connection.send(`${line}: ${version}, ${cipher}${isResumed ? ', resumed' : ''}`)
}

Worker.runAll()
