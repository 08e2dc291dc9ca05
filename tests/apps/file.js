// Removes its socket's file before it listens and when it ends, as if nobody else had it.
'use strict';
const { rmSync } = require('node:fs');
const { port, answer } = require('./answer');
rmSync(port, { force: true });
const server = require('node:http').createServer((request, response) => response.end(JSON.stringify(answer())));
server.listen(port);
process.on('SIGINT', () =>
  server.close(() => {
    rmSync(port, { force: true });
    process.exit(0);
  }),
);
