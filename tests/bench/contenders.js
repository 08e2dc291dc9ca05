// What is compared. Each starts an app with so many workers, and knows the process that manages them.
'use strict';
const { execFileSync, spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');

const apps = path.join(__dirname, 'apps');
const DEADLINE = 120_000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(what, check, every = 5) {
  const end = Date.now() + DEADLINE;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited too long for ${what}`);
    await sleep(every);
  }
}

function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// The pid that answers, 0 if none does.
function ask(port) {
  return new Promise((resolve) => {
    const request = http.get({ port, host: '127.0.0.1', agent: false, timeout: 2000 }, (response) => {
      let text = '';
      response.on('data', (chunk) => (text += chunk)).on('end', () => resolve(JSON.parse(text).pid));
    });
    request.on('error', () => resolve(0)).on('timeout', () => request.destroy());
  });
}

// A supervisor with PM2's commands.
class Supervisor {
  constructor(name, argv, homeVariable) {
    Object.assign(this, { name, argv, homeVariable, manages: true });
  }

  async open() {
    this.home = fs.mkdtempSync(path.join(os.tmpdir(), `bench-${this.name}-`));
    this.run('ping');
    const file = path.join(this.home, 'pm2.pid');
    this.manager = await until('the pid file', () => fs.existsSync(file) && Number(fs.readFileSync(file, 'utf8')));
  }

  run(...args) {
    return this.with({}, ...args);
  }

  with(env, ...args) {
    const [program, ...before] = this.argv;
    const whole = { ...process.env, PM2_DISABLE_VERSION_CHECK: 'true', [this.homeVariable]: this.home, ...env };
    return execFileSync(program, [...before, ...args], { env: whole, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 1 << 28 });
  }

  // Resolves when the command ends, which may be after the app began.
  start(file) {
    const [program, ...before] = this.argv;
    const env = { ...process.env, PM2_DISABLE_VERSION_CHECK: 'true', [this.homeVariable]: this.home };
    const child = spawn(program, [...before, 'start', file], { env, stdio: 'ignore' });
    return new Promise((resolve) => child.on('exit', resolve));
  }

  list() {
    const text = this.run('jlist');
    return JSON.parse(text.slice(text.indexOf('[')));
  }

  async serve(workers, script = 'http.js') {
    const port = await freePort();
    this.with({ PORT: String(port) }, 'start', path.join(apps, script), '--name', 'app', '-i', String(workers));
    await until('an answer', () => ask(port));
    await until('all workers', () => this.online(workers), 50);
    return port;
  }

  online(count) {
    return this.list().filter((row) => row.pm2_env.status === 'online').length === count;
  }

  workers() {
    return this.list().map((row) => row.pid);
  }

  reload() {
    this.run('reload', 'app');
  }

  scale(workers) {
    this.run('scale', 'app', String(workers));
  }

  async end() {
    this.run('delete', 'all');
  }

  close() {
    this.run('kill');
    fs.rmSync(this.home, { recursive: true, force: true });
  }
}

// Nothing but Node.
class Plain {
  constructor(name, script) {
    Object.assign(this, { name, script, manages: false });
  }

  async open() {}

  async serve(workers) {
    const port = await freePort();
    const env = { ...process.env, PORT: String(port), WORKERS: String(workers) };
    this.child = spawn(process.execPath, [path.join(apps, this.script)], { env, stdio: 'ignore' });
    this.manager = this.script === 'cluster.js' ? this.child.pid : 0;
    await until('an answer', () => ask(port));
    const seen = new Set();
    await until('all workers', async () => seen.add(await ask(port)).size >= workers);
    return port;
  }

  workers() {
    const { pid } = this.child;
    return this.manager ? fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number) : [pid];
  }

  async end() {
    const over = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill('SIGKILL');
    await over;
  }

  // Whatever went wrong before.
  close() {
    this.child?.kill('SIGKILL');
  }
}

module.exports = { Supervisor, Plain, apps, ask, until, sleep };
