// A client that never retries: asks one URL over and over until SIGINT, then prints what became of it as JSON.
// node load.js URL [CONNECTIONS]: half of them keep their connection alive, half open a new one for each request.
const http = require('node:http');

const [url, connections = '8'] = process.argv.slice(2);
const result = { ok: 0, failed: 0, pids: {}, errors: {} };
let running = true;

function ask(agent) {
  return new Promise((resolve) => {
    const failed = (error) => {
      result.failed += 1;
      const key = error.code || error.message;
      result.errors[key] = (result.errors[key] || 0) + 1;
      resolve();
    };
    const request = http.get(url, { agent, timeout: 60000 }, (response) => {
      let body = '';
      response.on('data', (data) => (body += data));
      response.on('error', failed);
      response.on('aborted', () => failed(new Error('aborted')));
      response.on('end', () => {
        if (!response.complete) return;
        if (response.statusCode !== 200) return failed(new Error(`status ${response.statusCode}`));
        result.ok += 1;
        result.pids[body] = (result.pids[body] || 0) + 1;
        resolve();
      });
    });
    request.on('timeout', () => request.destroy(new Error('timed out')));
    request.on('error', failed);
  });
}

async function client(keepAlive) {
  const agent = keepAlive ? new http.Agent({ keepAlive: true, maxSockets: 1 }) : false;
  while (running) {
    await ask(agent);
    // The machine has time for what is tested with it.
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  if (agent) agent.destroy();
}

process.on('SIGINT', () => (running = false));
const clients = [];
for (let i = 0; i < Number(connections); i++) clients.push(client(i % 2 === 0));
console.log('loading');
Promise.all(clients).then(() => console.log(JSON.stringify(result)));
