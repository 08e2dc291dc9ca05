// Two servers in one worker, one of them on a port of the kernel's choice.
'use strict';
const { port, answer } = require('./answer');
const http = require('node:http');
const any = http.createServer((request, response) => response.end(JSON.stringify(answer())));
any.listen(0, '127.0.0.1', () => {
  http
    .createServer((request, response) => response.end(JSON.stringify({ ...answer(), other: any.address().port })))
    .listen(port);
});
