import { readFileSync } from 'node:fs';

const { version } = JSON.parse(readFileSync(new URL('./package.json', import.meta.url), 'utf8'));

export default {
  apps: [{ name: 'esm', script: './server.mjs', instances: 2, env: { VERSION: version } }],
};
