'use strict';
const { port, answer } = require('./answer');
require('node:http2')
  .createServer((request, response) => setTimeout(() => response.end(JSON.stringify(answer())), 50))
  .listen(port);
