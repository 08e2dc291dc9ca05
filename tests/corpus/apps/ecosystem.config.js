module.exports = {
  apps: [
    {
      name: 'api',
      script: './http.js',
      instances: 2,
      exec_mode: 'cluster',
      env: { NODE_ENV: 'development', LIMIT: 1 },
      env_production: { NODE_ENV: 'production' },
    },
    { name: 'worker', script: './app.js', args: 'one two', namespace: 'jobs', max_memory_restart: '200M' },
  ],
};
