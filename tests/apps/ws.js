'use strict';
const { npm, port, answer } = require('./answer');
const { WebSocketServer } = npm('ws');
new WebSocketServer({ port }).on('connection', (socket) => {
  socket.on('message', (text) => socket.send(JSON.stringify({ ...answer(), text: String(text) })));
});
