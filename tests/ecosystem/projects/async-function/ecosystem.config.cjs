// Settings that have to be fetched first.
const { setTimeout } = require('node:timers/promises');

module.exports = async () => {
  const replicas = await setTimeout(1, 3);
  console.log('printing must not disturb');
  return { apps: [{ name: 'fetched', script: 'app.js', instances: replicas, cron_restart: '0 3 * * *' }] };
};
