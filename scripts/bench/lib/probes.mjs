// What benches ask a server before they measure it: whether it answers, and what its answer looks like; also the files
// that the generator reads its requests from.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** All bytes received after `request`, until they end in `tail`, the server closes, or a second has passed. */
export function answerOf(port, request, tail) {
  return new Promise((resolve) => {
    let answer = Buffer.alloc(0)
    const settle = () => {
      socket.destroy()
      resolve(answer)
    }
    const socket = connect(port, '127.0.0.1', () => socket.write(request))
    socket.setTimeout(1000, settle)
    socket.on('error', settle)
    socket.on('close', settle)
    socket.on('data', (chunk) => {
      answer = Buffer.concat([answer, chunk])
      if (answer.subarray(-tail.length).equals(Buffer.from(tail))) settle()
    })
  })
}

/** True when the port echoes a line: a listening port may not serve yet. */
export async function echoesLine(port) {
  return (await answerOf(port, 'ping\n', 'ping\n')).toString() === 'ping\n'
}

/** Whether a GET of / is answered with 200. */
export async function answersHttp(port) {
  const answer = await answerOf(port, 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n', 'hello world!')
  return answer.toString('latin1').startsWith('HTTP/1.1 200 OK\r\n')
}

/** The generator's flag for the beginning of each answer. */
export const okFlags = ['-x', Buffer.from('HTTP/1.1 200 OK').toString('hex')]

/** Whether a WebSocket handshake is accepted. */
export async function answersWebSocket(port) {
  return (await answerOf(port, webSocketHandshake, '\r\n\r\n')).toString('latin1').startsWith('HTTP/1.1 101 ')
}

export const webSocketHandshake = [
  'GET / HTTP/1.1',
  'Host: localhost',
  'Upgrade: websocket',
  'Connection: Upgrade',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  'Sec-WebSocket-Version: 13',
  '',
  '',
].join('\r\n')

/** A text frame of less than 126 bytes; a client's is masked. */
export function textFrame(text, mask) {
  const payload = Buffer.from(text)
  if (mask === undefined) return Buffer.concat([Buffer.from([0x81, payload.length]), payload])
  const masked = payload.map((byte, i) => byte ^ mask[i % 4])
  return Buffer.concat([Buffer.from([0x81, 0x80 | payload.length]), Buffer.from(mask), masked])
}

/**
 * Returns a function that writes files into a folder, which is removed when this process exits, and returns their
 * paths.
 */
export function scratch(name) {
  const folder = mkdtempSync(join(tmpdir(), `millrace-bench-${name}-`))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  return (file, content) => {
    writeFileSync(join(folder, file), content)
    return join(folder, file)
  }
}
