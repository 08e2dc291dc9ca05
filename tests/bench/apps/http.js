// Answers who it is, with no work of its own.
'use strict';
const body = JSON.stringify({ pid: process.pid });
require('node:http')
  .createServer((request, response) => response.end(body))
  .listen(Number(process.env.PORT));
