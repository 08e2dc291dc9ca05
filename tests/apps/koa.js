'use strict';
const { npm, port, answer } = require('./answer');
const app = new (npm('koa'))();
app.use((context) => {
  context.body = answer();
});
app.listen(port);
