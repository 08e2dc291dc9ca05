'use strict';
// The smallest app worth supervising: answers with its pid on PORT (3000).
const { createServer } = require('node:http');

createServer((request, response) => response.end(`hello from ${process.pid}\n`)).listen(process.env.PORT || 3000);
