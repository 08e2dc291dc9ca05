module.exports = {
  apps: [
    { name: 'sync', script: './sync.sh', args: '--every 5m "two words"' },
    { name: 'start', script: 'npm run start', cwd: './web' },
    { name: 'npm', script: 'npm', args: 'start' },
    { script: "echo 'hi there'; sleep 100", args: ['--x', 'a b'] },
    { name: 'caddy', script: 'caddy', args: 'run --config Caddyfile' },
    { name: 'command', command: 'php artisan queue:work', exec_mode: 'fork' },
  ],
};
