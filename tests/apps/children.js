// What the app starts must see nothing of us: a fork, a worker thread.
'use strict';
const { fork } = require('node:child_process');
const { Worker, isMainThread, parentPort } = require('node:worker_threads');
const seen = () => ({
  execArgv: process.execArgv,
  env: Object.keys(process.env).filter((name) => /^NODE_(CHANNEL|UNIQUE)/.test(name)),
  isWorker: require('node:cluster').isWorker,
});
if (!isMainThread) parentPort.postMessage(seen());
else if (process.argv[2] === 'child') process.send(seen());
else {
  process.send({ self: seen() });
  fork(__filename, ['child']).on('message', (child) => process.send({ child }));
  new Worker(__filename, { execArgv: [] }).on('message', (thread) => process.send({ thread }));
}
