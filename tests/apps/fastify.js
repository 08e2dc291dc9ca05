'use strict';
const { npm, port, answer } = require('./answer');
const app = npm('fastify')();
app.get('/', async () => answer());
app.listen({ port, host: '0.0.0.0' });
