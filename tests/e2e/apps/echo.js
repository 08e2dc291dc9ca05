// Answers what it is asked by message, by line, and by action.
process.on('message', (message) => {
  if (message && message.msg) {
    process.send({ type: 'axm:reply', data: { action_name: message.msg, return: { got: message.opts } } });
    return;
  }
  console.log(`message ${JSON.stringify(message)}`);
});
process.stdin.on('data', (data) => console.log(`line ${String(data).trim()}`));
process.on('SIGUSR2', () => console.log('signal SIGUSR2'));
if (process.send) process.send({ type: 'axm:action', data: { action_name: 'greet', opts: null, arity: 2 } });
console.log('echo is up');
setInterval(() => {}, 1 << 30);
