// A workspace: a function per kind of app, spread over packages.
const path = require('path');

const service = (name, overrides = {}) => ({
  name: `@shop/${name}`,
  namespace: 'shop',
  cwd: path.join(__dirname, 'packages', name),
  script: 'index.js',
  time: true,
  autorestart: true,
  ...overrides,
});

module.exports = {
  apps: [
    service('api', { instances: process.env.WEB_CONCURRENCY || 2 }),
    service('jobs', { autorestart: false, cron: '*/10 * * * *', autostart: false }),
    service('mail', { treekill: false, shutdown_with_message: true, uid: 'mail', gid: 8 }),
    process.env.WITH_ADMIN && service('admin'),
  ],
};
