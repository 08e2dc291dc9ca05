// How much CPU time a process uses.
'use strict';
const fs = require('node:fs');

const TICK = 10_000; // microseconds; sysconf(_SC_CLK_TCK) is 100 on Linux

// CPU time that a process has used, in ticks (proc_pid_stat(5)).
function ticks(pid) {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').pop().split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

// The same by thread, as the scheduler counts it, in nanoseconds.
function threads(pid) {
  const folder = `/proc/${pid}/task`;
  return new Map(fs.readdirSync(folder).map((id) => [id, Number(fs.readFileSync(`${folder}/${id}/schedstat`, 'utf8').split(' ')[0])]));
}

// Begins to count; what it returns says how many microseconds of CPU the process has used since. A tick is more than pm2rs
// uses in some whole measures, hence the threads; one that has ended takes its count with it, hence the ticks as well.
function cpu(pid) {
  const [ticksBefore, before] = [ticks(pid), threads(pid)];
  return () => {
    let precise = 0;
    for (const [id, ns] of threads(pid)) precise += (ns - (before.get(id) ?? 0)) / 1000;
    return Math.max(precise, (ticks(pid) - ticksBefore - 1) * TICK);
  };
}

module.exports = { cpu };
