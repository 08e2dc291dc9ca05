// One worker fewer than there are CPUs, and room for a database on the same machine.
module.exports = [
  { name: 'api', script: 'server.js', instances: -1, max_memory_restart: '450M', increment_var: 'PORT', env: { PORT: 4000 } },
  { name: 'sockets', script: 'sockets.js', instances: 1, instance_var: 'INSTANCE_ID' },
];
