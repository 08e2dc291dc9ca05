// Listens on port 80, whoever runs it.
require('node:http')
  .createServer((request, response) => response.end(`${process.getuid()}\n`))
  .listen(80, () => console.log('listening on 80'));
