// A plain express app, which knows nothing of who runs it.
const express = require('express');

const app = express();
app.get('/', (request, response) => response.send(String(process.pid)));
app.get('/slow', (request, response) => setTimeout(() => response.send(String(process.pid)), 500));
app.get('/user', (request, response) => response.send(`${process.getuid()} ${process.env.HOME}`));
const server = app.listen(Number(process.env.PORT || 3000), (error) => {
  if (error) throw error;
  console.log('listening');
});
// Not Node's 5 s: a connection that a slow machine let wait for so long would be ended with a request on it.
server.keepAliveTimeout = 60000;
