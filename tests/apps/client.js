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
  // Requests on one session, one after the other; a session that is told to go away is replaced. Node's client refuses a
  // request itself that was queued when the GOAWAY came: it was not sent, and as the code says may be sent anew (RFC 9113,
  // section 8.7). What was sent must be answered.
  async http2() {
    const http2 = require('node:http2');
    let session;
    let refused = 0;
    for (let i = 0; i < count; ) {
      if (!session || session.closed || session.destroyed) session = http2.connect(`http://127.0.0.1:${port}`);
      const stream = session.request({ ':path': '/' });
      let text = '';
      stream.setEncoding('utf8');
      stream.on('data', (chunk) => (text += chunk));
      const error = await new Promise((resolve) => stream.once('end', () => resolve(null)).once('error', resolve));
      // Once for each of the two workers that drain, at most.
      if (error && (stream.rstCode !== http2.constants.NGHTTP2_REFUSED_STREAM || ++refused > 2)) throw error;
      if (error) continue;
      tell(text);
      i++;
    }
    session.close();
  },
};
kinds[kind]().then(() => process.exit(0));
