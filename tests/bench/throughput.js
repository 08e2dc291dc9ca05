// Requests per second and what they cost. All contenders run at once and are asked by turns of a second: what a shared machine
// has to give changes from one second to the next by more than they differ, so that only neighbouring turns can be compared.
'use strict';
const { execFile } = require('node:child_process');
const path = require('node:path');
const { cpu } = require('./cpu');

const CLIENT = path.join(__dirname, '..', 'load', 'client.js');
const TURN = 1; // seconds
// Of each, and not counted: until V8 has compiled what it will.
const WARM_UP = 2;

function output(program, args) {
  return new Promise((resolve, reject) => {
    execFile(program, args, { maxBuffer: 1 << 26 }, (error, stdout) => (error ? reject(error) : resolve(stdout)));
  });
}

async function wrk(port, keep, clients) {
  const headers = keep ? [] : ['-H', 'Connection: close'];
  const text = await output('wrk', ['-t1', `-c${clients}`, `-d${TURN}`, '--latency', ...headers, `http://127.0.0.1:${port}/`]);
  const [, number, unit] = /99%\s+([\d.]+)(us|ms|s|m)\b/.exec(text);
  const requests = Number(/(\d+) requests in/.exec(text)[1]);
  const p99 = Number(number) * { us: 0.001, ms: 1, s: 1000, m: 60000 }[unit];
  return { rate: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)[1]), p99, requests };
}

async function ownClient(port, keep, clients) {
  const args = [CLIENT, `http://127.0.0.1:${port}/`, '--mode', keep ? 'keep' : 'once', '--seconds', TURN, '--clients', clients];
  const report = JSON.parse((await output(process.execPath, args.map(String))).trim().split('\n').pop());
  return { rate: report.ok / report.seconds, p99: report.latency.p99, requests: report.ok };
}

async function turn({ contender, port, pids }, keep, options) {
  const workers = pids.map(cpu);
  const manager = contender.manager && cpu(contender.manager);
  const { rate, p99, requests } = await (options.wrk ? wrk : ownClient)(port, keep, options.clients);
  return {
    'requests/s': rate,
    'p99 ms': p99,
    'worker CPU us/request': workers.reduce((sum, used) => sum + used(), 0) / requests,
    ...(manager && { 'manager CPU us/request': manager() / requests }),
  };
}

module.exports = {
  sideBySide: true,
  of: (contender, { count }) => contender.script !== 'http.js' || count === 1,
  cases: ({ workers }) =>
    workers.flatMap((count) =>
      [true, false].map((keep) => ({ name: `${keep ? 'kept-alive' : 'one-shot'}, ${count} worker${count === 1 ? '' : 's'}`, count, keep })),
    ),

  // Returns for each turn and contender its numbers by name.
  async measure(contenders, options, { name, count, keep }) {
    const serving = [];
    try {
      for (const contender of contenders) {
        const port = await contender.serve(count);
        // Asked for once: a list costs a manager more than all requests that follow.
        serving.push({ contender, port, pids: contender.workers() });
      }
      for (const one of serving) for (let i = 0; i < WARM_UP; i++) await turn(one, keep, options);
      const samples = [];
      for (let rep = 0; rep < options.turns; rep++) {
        // Each is first in its turn, lest one always finds caches as it left them itself, and another never.
        const first = rep % serving.length;
        for (const one of [...serving.slice(first), ...serving.slice(0, first)]) {
          const numbers = await turn(one, keep, options);
          const named = Object.entries(numbers).map(([what, value]) => [`${what} ${name}`, value]);
          samples.push({ rep, contender: one.contender.name, numbers: Object.fromEntries(named) });
        }
      }
      return samples;
    } finally {
      for (const { contender } of serving) await contender.end();
    }
  },
};
