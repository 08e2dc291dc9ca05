// Writes down what dayjs makes of formats: `npm install dayjs@1.11 && node dayjs.js > dayjs.json`
'use strict';

const { execFileSync } = require('child_process');

if (!process.argv[2]) {
  const rows = ['UTC', 'Asia/Kolkata', 'America/New_York', 'Europe/Berlin'].flatMap((zone) =>
    JSON.parse(execFileSync(process.execPath, [__filename, zone], { env: { ...process.env, TZ: zone } })));
  console.log(`[\n${rows.map((row) => JSON.stringify(row)).join(',\n')}\n]`);
} else {
  const dayjs = require('dayjs');
  const times = [0, 1000000000123, 1709208000999, 1735689599000, 1767225600000, 1795222626004, 1793494800000];
  const formats = [
    'YYYY-MM-DDTHH:mm:ss', 'YYYY-MM-DD HH:mm:ss.SSS Z', 'DD/MM/YY hh:mm:ss A', 'dddd, MMMM D YYYY, h:m:s a ZZ',
    'ddd dd d MMM M H', 'YYY Y YYYYY', 'MMMMM DDD ddddd HHH hhh AA', 'SS SSSS ZZZ', '[YYYY] [] [[x]] [open', 'Do Q w X x k gg',
    'über: {HH}', 'YYYY-MM-DD_HH-mm-ss',
  ];
  console.log(JSON.stringify(times.flatMap((time) =>
    formats.map((format) => [process.argv[2], time, format, dayjs(time).format(format)]))));
}
