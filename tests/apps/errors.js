// Tells by message how listening with each of `LISTEN` (a JSON list of options) ends.
'use strict';
const net = require('node:net');
(async () => {
  for (const options of JSON.parse(process.env.LISTEN)) {
    const server = net.createServer();
    const outcome = await new Promise((resolve) => {
      server.once('error', (error) => resolve(`${error.syscall} ${error.code}`));
      server.listen(options, () => resolve(server.address()));
    });
    process.send({ options, outcome });
    if (options.close) await new Promise((resolve) => server.close(resolve));
  }
})();
