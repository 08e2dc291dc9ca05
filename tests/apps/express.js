'use strict';
const { npm, port, answer } = require('./answer');
const app = npm('express')();
app.get('/', (request, response) => response.json(answer()));
app.listen(port);
