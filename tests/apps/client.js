// Asks servers that need more than a socket to be asked: `client.js KIND PORT COUNT`, an answer a line.
'use strict';
const { npm } = require('./answer');
const [kind, port, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const tell = (text) => console.log(String(text));

const kinds = {
  async udp() {
    // A new port each, or the kernel's choice of reader would be the same.
    for (let i = 0; i < count; i++) {
      const socket = require('node:dgram').createSocket('udp4');
      socket.send('x', port, '127.0.0.1');
      tell(await new Promise((resolve) => socket.once('message', resolve)));
      socket.close();
    }
  },
  async ws() {
    const WebSocket = npm('ws');
    for (let i = 0; i < count; i++) {
      const socket = new WebSocket(`ws://127.0.0.1:${port}`);
      await new Promise((resolve) => socket.once('open', resolve));
      socket.send(`message ${i}`);
      tell(await new Promise((resolve) => socket.once('message', resolve)));
      socket.close();
    }
  },
  async https() {
    let session;
    for (let i = 0; i < count; i++) {
      const answer = await new Promise((resolve, reject) => {
        const agent = new (require('node:https').Agent)({ maxCachedSessions: 0 });
        const options = { port, host: '127.0.0.1', rejectUnauthorized: false, agent, session };
        const request = require('node:https').get(options, async (response) => {
          let text = '';
          for await (const chunk of response) text += chunk;
          resolve(text);
        });
        request.on('socket', (socket) => socket.on('session', (fresh) => (session = fresh)));
        request.on('error', reject);
      });
      tell(answer);
    }
  },
  // Requests on one session, one after the other, each while the one before is under way; a session that is told to go
  // away is replaced.
  async http2() {
    const http2 = require('node:http2');
    let session;
    for (let i = 0; i < count; i++) {
      if (!session || session.closed || session.destroyed) session = http2.connect(`http://127.0.0.1:${port}`);
      const stream = session.request({ ':path': '/' });
      let text = '';
      stream.setEncoding('utf8');
      stream.on('data', (chunk) => (text += chunk));
      await new Promise((resolve, reject) => stream.once('end', resolve).once('error', reject));
      tell(text);
    }
    session.close();
  },
};
kinds[kind]().then(() => process.exit(0));
