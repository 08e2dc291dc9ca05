'use strict';
const { port, answer } = require('./answer');
const server = require('node:http')
  .createServer((request, response) => {
    const ms = Number(new URL(request.url, 'http://x').searchParams.get('ms'));
    setTimeout(() => response.end(JSON.stringify({ ...answer(), url: request.url, main: require.main === module })), ms);
  });
const address = process.env.REUSE_PORT ? { port, reusePort: true } : port;
// With HELD it listens only once it gets a message.
if (process.env.HELD) process.once('message', () => server.listen(address));
else server.listen(address);
