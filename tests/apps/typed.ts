import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import answers from './answer.js';

const handle = (_request: IncomingMessage, response: ServerResponse): void => {
  response.end(JSON.stringify(answers.answer() as { pid: number }));
};
createServer(handle).listen(answers.port as number);
