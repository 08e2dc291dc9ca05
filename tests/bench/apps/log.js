// Writes `LINE` `LINES` times, each in a call of its own, as console.log does, then waits.
'use strict';
const line = process.env.LINE;
let left = Number(process.env.LINES);
function write() {
  while (left > 0) {
    left -= 1;
    if (!process.stdout.write(line)) return process.stdout.once('drain', write);
  }
}
write();
setInterval(() => {}, 1 << 30);
