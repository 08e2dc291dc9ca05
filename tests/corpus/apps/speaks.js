// Offers two actions, tells of signals and lines.
for (const action_name of ['hi', 'sum']) {
  process.send({ type: 'axm:action', data: { action_name, action_type: 'custom', arity: 1 } });
}
process.on('message', (message) => {
  const reply = (action_name, value) => process.send({ type: 'axm:reply', data: { action_name, return: value } });
  if (message === 'hi') reply('hi', { answer: 'hello' });
  else if (message.msg === 'sum') reply('sum', { opts: message.opts });
});
process.on('SIGUSR2', () => console.log('SIGUSR2'));
process.stdin.on('data', (line) => console.log(`line ${String(line).trim()}`));
setInterval(() => {}, 1 << 30);
