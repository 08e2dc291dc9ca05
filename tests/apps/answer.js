// What every app here answers, so that a test sees who did. `PORT` is a port or a path.
'use strict';
const { createRequire } = require('node:module');
const cluster = require('node:cluster');

exports.npm = createRequire(`${__dirname}/../npm/package.json`);
exports.port = /^\d*$/.test(process.env.PORT || '') ? Number(process.env.PORT) : process.env.PORT;
exports.answer = () => ({
  pid: process.pid,
  worker: cluster.isWorker ? cluster.worker.id : 0,
  instance: process.env.NODE_APP_INSTANCE,
  execArgv: process.execArgv,
});
