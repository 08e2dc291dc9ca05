// What is measured. Each measure returns numbers by name for one contender in one repetition; throughput, which has all of them
// at work side by side, says itself what it returns.
'use strict';
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { apps, ask, sleep, until } = require('./contenders');
const { cpu } = require('./cpu');
const throughput = require('./throughput');

const CLIENT = path.join(__dirname, '..', 'load', 'client.js');

// What a process holds for itself and its share of what it shares, in MiB.
function memory(pid) {
  return Number(/^Pss:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))[1]) / 1024;
}

// Clients at work until `stop`.
function load(port, mode, clients, timeout = 10000) {
  const args = ['--mode', mode, '--clients', String(clients), '--timeout', String(timeout)];
  const child = spawn(process.execPath, [CLIENT, `http://127.0.0.1:${port}/`, ...args]);
  let text = '';
  child.stdout.on('data', (chunk) => (text += chunk));
  const over = new Promise((resolve) => child.on('exit', resolve));
  return {
    running: () => until('the load', () => text.includes('running')),
    async stop() {
      child.stdin.end();
      await over;
      return JSON.parse(text.trim().split('\n').pop());
    },
  };
}

const lost = (report) => Object.values(report.failed).reduce((a, b) => a + b, 0);
const since = (from) => (Number(process.hrtime.bigint() - from) / 1e6);
const now = () => process.hrtime.bigint();

// Has 32 clients of each kind ask while `work` is done; `tell` learns what they lost and how long it took.
async function whileAsked(port, work, tell) {
  for (const [mode, name] of [['keep', 'kept-alive'], ['once', 'one-shot']]) {
    const clients = load(port, mode, 32);
    await clients.running();
    const from = now();
    work();
    const ms = since(from);
    tell(name, lost(await clients.stop()), ms);
  }
}

const successor = (pid, dead) => ![0, dead].includes(pid) && pid;

// Asks every few milliseconds, whether or not the attempts before have been answered, until another than the dead one does;
// how many attempts failed.
async function askAnew(port, dead) {
  let failed = 0;
  let answered = false;
  await until('the next worker', () => {
    ask(port).then((pid) => {
      answered ||= Boolean(successor(pid, dead));
      failed += pid === 0 && !answered ? 1 : 0;
    });
    return answered;
  }, 5);
  return failed;
}

module.exports = {
  throughput,

  balance: {
    of: (contender) => contender.script !== 'http.js',
    async measure(contender) {
      const port = await contender.serve(4);
      try {
        const clients = load(port, 'keep', 64);
        await clients.running();
        const counts = Object.values((await clients.stop()).connections);
        while (counts.length < 4) counts.push(0);
        return { 'fewest of 64 connections on one of 4 workers': Math.min(...counts), 'most of them': Math.max(...counts) };
      } finally {
        await contender.end();
      }
    },
  },

  reload: {
    of: (contender) => contender.manages,
    async measure(contender, { reloads }) {
      const port = await contender.serve(2);
      const result = {};
      try {
        const work = () => Array.from({ length: reloads }, () => contender.reload());
        await whileAsked(port, work, (name, failed, ms) => {
          result[`ms per reload of 2 workers, ${name}`] = ms / reloads;
          result[`requests lost over ${reloads} reloads, ${name}`] = failed;
        });
      } finally {
        await contender.end();
      }
      return result;
    },
  },

  scale: {
    of: (contender) => contender.manages,
    async measure(contender, { scales }) {
      const port = await contender.serve(2);
      const result = {};
      try {
        const work = () => Array.from({ length: scales }, () => [4, 2].map((workers) => contender.scale(workers)));
        await whileAsked(port, work, (name, failed) => {
          result[`requests lost over ${scales} times up and down, ${name}`] = failed;
        });
      } finally {
        await contender.end();
      }
      return result;
    },
  },

  kill: {
    of: (contender) => contender.script !== 'http.js',
    async measure(contender, { kills }) {
      const port = await contender.serve(4);
      try {
        // Each has at most one request in the hands of the worker that dies.
        const clients = load(port, 'once', 16);
        await clients.running();
        for (let i = 0; i < kills; i++) {
          const [victim] = contender.workers().filter((pid) => pid > 0);
          process.kill(victim, 'SIGKILL');
          await until('four workers', () => {
            const pids = contender.workers().filter((pid) => pid > 0);
            return pids.length === 4 && !pids.includes(victim);
          }, 50);
        }
        const report = await clients.stop();
        return {
          [`requests lost over ${kills} kills of one of 4 workers`]: lost(report),
          [`slowest answer meanwhile, ms`]: report.latency.max,
        };
      } finally {
        await contender.end();
      }
    },
  },

  hang: {
    of: (contender) => contender.manages,
    async measure(contender, { seconds }) {
      const port = await contender.serve(4, 'hang.js');
      try {
        const clients = load(port, 'once', 16, 2000);
        await clients.running();
        const hanging = http.get({ port, host: '127.0.0.1', path: '/hang', agent: false }).on('error', () => {});
        await sleep(seconds * 1000);
        const report = await clients.stop();
        hanging.destroy();
        return {
          'requests without an answer in 2 s, 1 of 4 workers hangs': lost(report),
          'slowest answer of the others, ms': report.latency.max,
        };
      } finally {
        await contender.end();
      }
    },
  },

  crash: {
    of: (contender) => contender.script !== 'http.js',
    async measure(contender) {
      const port = await contender.serve(1);
      const kill = (pid) => {
        process.kill(pid, 'SIGKILL');
        return now();
      };
      try {
        const first = await ask(port);
        let from = kill(first);
        const second = await until('the next worker', async () => successor(await ask(port), first), 1);
        const patient = since(from);
        // Once it has settled, and is no crash loop.
        await sleep(3000);
        from = kill(second);
        const failed = await askAnew(port, second);
        return {
          'ms from a crash to an answer, asked one after the other with a patience of 2 s': patient,
          'ms from a crash to an answer, asked anew every 5 ms': since(from),
          'of these attempts refused or cut': failed,
        };
      } finally {
        await contender.end();
      }
    },
  },

  many: {
    of: (contender) => contender.manages,
    async measure(contender, { processes }) {
      const result = { 'manager MiB with 0 processes': memory(contender.manager) };
      const idle = path.join(apps, 'idle.js');
      // Fork mode: an app a process, as PM2's users have them.
      const start = (count) => {
        const file = path.join(contender.home, `many-${count}.json`);
        const list = Array.from({ length: count }, (_, i) => ({ name: `idle-${i}`, script: idle }));
        fs.writeFileSync(file, JSON.stringify({ apps: list }));
        contender.run('start', file);
        return until('all processes', () => contender.online(count), 50);
      };
      for (const count of [10, processes]) {
        const from = now();
        await start(count);
        const took = since(from);
        result[`manager MiB with ${count} processes`] = memory(contender.manager);
        if (count === processes) {
          result[`s to start ${count} processes`] = took / 1000;
          let at = now();
          for (let i = 0; i < 5; i++) contender.run('jlist');
          result[`ms of jlist with ${count} processes`] = since(at) / 5;
          at = now();
          contender.run('restart', 'all');
          await until('all processes', () => contender.online(count), 50);
          result[`s to restart ${count} processes`] = since(at) / 1000;
        }
        const at = now();
        contender.run('delete', 'all');
        if (count === processes) result[`s to delete ${count} processes`] = since(at) / 1000;
      }
      return result;
    },
  },

  logs: {
    of: (contender) => contender.manages,
    async measure(contender, { lines }) {
      const file = path.join(contender.home, 'lines.log');
      const size = () => (fs.existsSync(file) ? fs.statSync(file).size : 0);
      // One file that grows, as PM2's does: pm2rs would rotate it, and PM2 does not know that key.
      const common = { name: 'log', out_file: file, log_rotate: false };
      const line = `${'a line of a log that has about a hundred bytes, as they have in many applications'.padEnd(99, '.')}\n`;
      const source = path.join(contender.home, 'lines.txt');
      fs.writeFileSync(source, line.repeat(lines));
      // With the first, what is measured is who reads; with the second, Node's writing has a large part in it.
      const writers = {
        'from cat': { script: '/bin/sh', interpreter: 'none', args: ['-c', `cat '${source}'; exec sleep 1000000`] },
        'from Node, one by one': { script: path.join(apps, 'log.js'), env: { LINES: lines, LINE: line } },
      };
      const result = {};
      for (const [name, writer] of Object.entries(writers)) {
        const ecosystem = path.join(contender.home, 'log.config.json');
        fs.writeFileSync(ecosystem, JSON.stringify({ apps: [{ ...common, ...writer }] }));
        const used = cpu(contender.manager);
        const started = contender.start(ecosystem);
        try {
          // From what is there first to what is there last: Node's start is nobody's merit.
          const head = await until('the first line', size, 1);
          const from = now();
          await until('all lines', () => size() >= lines * 100, 1);
          const seconds = since(from) / 1000;
          result[`log lines/s ${name}`] = (lines - head / 100) / seconds;
          result[`manager CPU us/log line ${name}`] = used() / lines;
        } finally {
          await started;
          await contender.end();
          fs.rmSync(file, { force: true });
        }
      }
      fs.rmSync(source);
      return result;
    },
  },
};
