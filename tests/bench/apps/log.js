// Writes `LINES` lines as fast as they are taken, then waits.
'use strict';
const line = `${'a line of a log that has about a hundred bytes, as they have in many applications'.padEnd(99, '.')}\n`;
let left = Number(process.env.LINES);
function write() {
  while (left > 0) {
    const count = Math.min(left, 100);
    left -= count;
    if (!process.stdout.write(line.repeat(count))) return process.stdout.once('drain', write);
  }
}
write();
setInterval(() => {}, 1 << 30);
