// A Nest API that tells when it is ready and closes its pool when it is asked to end.
'use strict';
const pkg = require('./package.json');

module.exports = {
  apps: [
    {
      name: pkg.name,
      cwd: './',
      script: './dist/main.js',
      exec_mode: 'cluster_mode',
      instances: 2,
      wait_ready: true,
      listen_timeout: 10000,
      kill_timeout: 5000,
      node_args: '--max-old-space-size=512 --enable-source-maps',
      error_file: './logs/err.log',
      out_file: './logs/out.log',
      log_date_format: 'YYYY-MM-DD HH:mm:ss Z',
      merge_logs: true,
      env: { NODE_ENV: 'production', PORT: 3001, FEATURES: { beta: true, limit: 10 } },
    },
  ],
};
