// Echoes messages; `handle` sends a socket along.
'use strict';
const net = require('node:net');
process.on('message', (message) => {
  if (message === 'handle') {
    const server = net.createServer().listen({ port: 0, exclusive: true }, () => process.send('with handle', server));
  } else if (message === 'leave') {
    process.disconnect();
  } else {
    process.send({ echo: message });
  }
});
process.send('ready');
