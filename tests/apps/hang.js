// Answers; `/hang=FILE` sends its head, and the loop turns no more until there is such a file, or for two minutes.
'use strict';
const fs = require('node:fs');
const { port, answer } = require('./answer');
require('node:http')
  .createServer((request, response) => {
    if (request.url.startsWith('/hang=')) {
      response.flushHeaders();
      const file = request.url.slice('/hang='.length);
      for (const end = Date.now() + 120_000; Date.now() < end && !fs.existsSync(file); );
    }
    response.end(JSON.stringify(answer()));
  })
  .listen(port);
