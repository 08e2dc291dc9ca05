// Answers who it is; who is asked for `/hang` never does anything again.
'use strict';
const body = JSON.stringify({ pid: process.pid });
require('node:http')
  .createServer((request, response) => {
    while (request.url === '/hang');
    response.end(body);
  })
  .listen(Number(process.env.PORT));
