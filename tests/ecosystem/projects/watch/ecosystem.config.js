module.exports = {
  apps: [
    {
      script: 'index.js',
      watch: ['server', 'client'],
      watch_delay: 1000,
      ignore_watch: ['node_modules', '\\.git', /\.test\.js$/],
      watch_options: { followSymlinks: false, ignored: '*.log', usePolling: false },
    },
    { script: 'all.js', watch: true, watchReload: true, watch_ext: '.js,.json' },
    { script: 'one.js', watch: './one.js' },
  ],
};
