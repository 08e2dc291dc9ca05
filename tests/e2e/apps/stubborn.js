// Ignores what should end it, and has a child and a grandchild that do so too. Prints all their pids.
const { spawn } = require('node:child_process');

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {});
const depth = Number(process.env.DEPTH || 0);
console.log(`stubborn ${process.pid}`);
if (depth < 2) {
  spawn(process.execPath, [__filename], {
    env: { ...process.env, DEPTH: String(depth + 1) },
    stdio: 'inherit',
    detached: depth === 1, // the grandchild is in a session of its own
  });
}
setInterval(() => {}, 1 << 30);
