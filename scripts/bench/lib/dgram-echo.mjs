// The peer of the udp bench: an echo on plain node:dgram, as usually written by hand.
import { createSocket } from 'node:dgram'

const socket = createSocket('udp4')
socket.on('message', (bytes, { address, port }) => {
  socket.send(bytes, port, address, (error) => {
    if (error) console.error(error.message)
  })
})
socket.on('error', (error) => console.error(error.message))
socket.bind(0, '127.0.0.1', () => console.log(socket.address().port))
