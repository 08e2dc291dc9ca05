module.exports = {
  apps: [
    {
      script: 'app.js',
      instnaces: 4,
      max_memory_retsart: '1G',
      node_arg: '--harmony',
      description: 'nobody reads this',
      deep_monitoring: true,
      vizion: false,
      pmx: false,
      error: 'a.log',
      err_file: 'b.log',
      env_prod: { A: '1' },
    },
  ],
};
