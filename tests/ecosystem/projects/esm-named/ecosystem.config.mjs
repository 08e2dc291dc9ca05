export const apps = [{ name: 'named', script: './server.mjs' }];
export const deploy = { staging: { host: 'staging.example.org' } };
