'use strict';
const { port, answer } = require('./answer');
require('node:http')
  .createServer((request, response) => {
    const ms = Number(new URL(request.url, 'http://x').searchParams.get('ms'));
    setTimeout(() => response.end(JSON.stringify({ ...answer(), url: request.url, main: require.main === module })), ms);
  })
  .listen(port);
