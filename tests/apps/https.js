'use strict';
const { readFileSync } = require('node:fs');
const { port, answer } = require('./answer');
const options = { key: readFileSync(`${__dirname}/tls/key.pem`), cert: readFileSync(`${__dirname}/tls/cert.pem`) };
require('node:https')
  .createServer(options, (request, response) => {
    response.end(JSON.stringify({ ...answer(), resumed: request.socket.isSessionReused() }));
  })
  .listen(port);
