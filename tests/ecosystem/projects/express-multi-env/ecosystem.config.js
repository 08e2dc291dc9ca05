module.exports = {
  apps: [
    {
      name: 'web',
      script: './bin/www',
      env: { NODE_ENV: 'development', DEBUG: 'web:*' },
      env_staging: { NODE_ENV: 'staging', PORT: 8080 },
      env_production: { NODE_ENV: 'production', PORT: '80', DEBUG: null, TRACE: false },
      append_env_to_name: true,
      max_restarts: 10,
      min_uptime: '10s',
      exp_backoff_restart_delay: 100,
      stop_exit_codes: [0],
    },
  ],
  deploy: {
    production: {
      user: 'node',
      host: ['10.0.0.1', '10.0.0.2'],
      ref: 'origin/master',
      repo: 'git@example.org:web.git',
      path: '/var/www/web',
      env: { RELEASE: 'blue', PORT: '8000' },
      'post-deploy': 'npm ci && pm2 startOrReload ecosystem.config.js --env production',
    },
  },
};
