// Closes its server on SIGINT, as PM2's documentation advises.
'use strict';
const { port, answer } = require('./answer');
const server = require('node:http').createServer((request, response) => {
  setTimeout(() => response.end(JSON.stringify(answer())), 3);
});
server.listen(port);
process.on('SIGINT', () => server.close(() => process.exit(0)));
