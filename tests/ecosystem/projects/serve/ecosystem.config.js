// A single-page application served by the package `serve`, as a cluster.
module.exports = {
  apps: [
    { name: 'spa', script: 'serve -s build -l 5000', exec_mode: 'cluster', instances: 4 },
    { name: 'node-line', script: 'node ./api.js --port 3000', exec_mode: 'cluster', args: '-v' },
    { name: 'node-program', script: 'node', args: 'api.js --port 3001', exec_mode: 'cluster', instances: 1 },
    { name: 'needs-a-shell', script: 'serve -s build > access.log', exec_mode: 'cluster' },
  ],
};
