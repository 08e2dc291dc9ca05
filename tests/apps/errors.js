// Tells by message how listening with each of `LISTEN` (a JSON list of options) ends; with `udp`, how binding does.
'use strict';
const dgram = require('node:dgram');
const net = require('node:net');
(async () => {
  for (const options of JSON.parse(process.env.LISTEN)) {
    const server = options.udp ? dgram.createSocket(options.udp) : net.createServer();
    const outcome = await new Promise((resolve) => {
      server.once('error', (error) => resolve(`${error.syscall} ${error.code}`));
      server[options.udp ? 'bind' : 'listen'](options, () => resolve(server.address()));
    });
    process.send({ options, outcome });
    if (options.close) await new Promise((resolve) => server.close(resolve));
  }
})();
