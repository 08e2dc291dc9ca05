// Listens before it can serve, and says when it can.
'use strict';
const { port, answer } = require('./answer');
let ready = false;
require('node:http')
  .createServer((request, response) => {
    response.statusCode = ready ? 200 : 503;
    response.end(JSON.stringify(answer()));
  })
  .listen(port, () => {
    setTimeout(() => {
      ready = true;
      process.send('ready');
    }, 300);
  });
