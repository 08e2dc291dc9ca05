// Node's own cluster: `WORKERS` of http.js.
'use strict';
const cluster = require('node:cluster');
if (cluster.isPrimary) {
  for (let i = 0; i < Number(process.env.WORKERS); i++) cluster.fork();
  cluster.on('exit', () => cluster.fork());
} else require('./http.js');
