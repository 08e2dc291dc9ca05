'use strict';
const { port, answer } = require('./answer');
require('node:net')
  .createServer((socket) => socket.end(JSON.stringify(answer())))
  .listen(port);
