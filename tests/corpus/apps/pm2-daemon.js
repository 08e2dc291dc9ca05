// Does what PM2's daemon does when it is asked to end: writes its list, says no more, exits with 0.
const fs = require('fs');
const home = process.argv[2];
const app = (name, status, rest) => ({
  name, status, pm_exec_path: `${__dirname}/app.js`, pm_cwd: __dirname, exec_mode: 'fork_mode', exec_interpreter: 'node',
  instances: 1, autorestart: true, env: { PATH: process.env.PATH }, ...rest,
});
process.title = 'PM2 v7.0.4: God Daemon';
process.on('SIGTERM', () => {
  const list = [
    app('api', 'online', { max_memory_restart: 209715200 }),
    app('halted', 'stopped'),
    app('gone', 'online', { pm_exec_path: `${__dirname}/nowhere.js` }),
  ];
  fs.writeFileSync(`${home}/dump.pm2`, JSON.stringify(list));
  fs.unlinkSync(`${home}/pm2.pid`);
  process.exit(0);
});
fs.writeFileSync(`${home}/dump.pm2`, JSON.stringify([app('api', 'online')]));
fs.writeFileSync(`${home}/pm2.pid`, String(process.pid));
setInterval(() => {}, 1 << 30);
