// A Next.js site behind nginx: the build is served by next itself, a worker per CPU.
module.exports = {
  apps: [
    {
      name: 'site',
      script: 'node_modules/next/dist/bin/next',
      args: 'start -p 3000',
      instances: 'max',
      exec_mode: 'cluster',
      autorestart: true,
      watch: false,
      max_memory_restart: '1G',
      env: { NODE_ENV: 'development' },
      env_production: { NODE_ENV: 'production', PORT: 3000 },
    },
  ],
};
