import { createServer } from 'node:http';
import answers from './answer.js';
// import.meta.main is known to Node 22 and later.
if (import.meta.main === false) throw new Error('not the main module');
await new Promise((resolve) => setImmediate(resolve));
createServer((request, response) => response.end(JSON.stringify(answers.answer()))).listen(answers.port);
