// Answers; `/hang` never ends.
'use strict';
const { port, answer } = require('./answer');
require('node:http')
  .createServer((request, response) => {
    if (request.url.startsWith('/hang')) {
      const until = Date.now() + Number(request.url.split('=')[1]);
      while (Date.now() < until);
    }
    response.end(JSON.stringify(answer()));
  })
  .listen(port);
