#!/usr/bin/env node
// A load client that never retries: what it sends once is answered, or it is counted as failed, by the way it failed.
//
//   client.js URL [--clients 16] [--mode keep|once] [--think 0] [--timeout 10000] [--seconds 0]
//
// Each client sends one request after the other: on a connection that it keeps until the server says that it will
// close (keep), or on a fresh one each (once). http and https. It speaks HTTP itself, on plain sockets, as libraries
// hide what this has to count: a request counts from its first byte, or from the attempt to connect for it.
//
//   refused   nobody listened
//   reset     the connection was reset
//   cut       the connection ended before the answer did
//   timeout   no whole answer in time
//   status    an answer other than 200
//   garbled   bytes that are no answer
//
// An idle connection that the server ends is no failure, as long as no request had been sent on it.
// Prints {"event":"running"} once every client has been answered, and {"event":"report",...} when its standard input
// ends or the seconds are over, after the requests under way. Exit code 0 whatever was counted.
'use strict';
const net = require('node:net');
const tls = require('node:tls');

const options = { clients: 16, mode: 'keep', think: 0, timeout: 10000, seconds: 0 };
const url = new URL(process.argv[2]);
for (let i = 3; i < process.argv.length; i += 2) {
  const name = process.argv[i].replace(/^--/, '');
  if (!(name in options)) throw new Error(`unknown option \`${process.argv[i]}\``);
  options[name] = typeof options[name] === 'number' ? Number(process.argv[i + 1]) : process.argv[i + 1];
}
if (!['keep', 'once'].includes(options.mode)) throw new Error(`unknown mode \`${options.mode}\``);

const secure = url.protocol === 'https:';
const keep = options.mode === 'keep';
const port = Number(url.port) || (secure ? 443 : 80);
const wire = Buffer.from(
  `GET ${url.pathname}${url.search} HTTP/1.1\r\nHost: ${url.host}\r\nConnection: ${keep ? 'keep-alive' : 'close'}\r\n\r\n`,
);
// Failures told one by one; all are counted.
const MOST_TOLD = 50;

const began = Date.now();
const failed = { refused: 0, reset: 0, cut: 0, timeout: 0, status: 0, garbled: 0 };
const failures = [];
const answers = {};
const connections = {};
const latencies = [];
let ok = 0;
let stopping = false;
let session;

class Failure extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

// One connection, which may carry many requests.
class Connection {
  constructor() {
    this.buffer = Buffer.alloc(0);
    this.pid = 0;
    this.requests = 0;
    this.over = null;
    this.waiting = null;
    const target = { port, host: url.hostname.replace(/^\[|\]$/g, '') };
    this.socket = secure ? tls.connect({ ...target, rejectUnauthorized: false, session }) : net.connect(target);
    this.socket.setNoDelay(true);
    if (secure) this.socket.on('session', (fresh) => (session = fresh));
    this.socket.on('data', (data) => {
      this.buffer = this.buffer.length === 0 ? data : Buffer.concat([this.buffer, data]);
      this.look();
    });
    this.socket.on('end', () => this.end(new Failure('cut', 'the connection ended')));
    this.socket.on('error', (error) => this.end(classify(error)));
    this.socket.on('close', () => this.end(new Failure('cut', 'the connection was closed')));
  }

  end(why) {
    if (this.over) return;
    this.over = why;
    this.look();
    this.socket.destroy();
  }

  // The answer to one request.
  request() {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.end(new Failure('timeout', `no answer in ${options.timeout} ms`)), options.timeout);
      this.waiting = { resolve, reject, timer };
      this.requests++;
      if (this.over) this.look();
      else this.socket.write(wire);
    });
  }

  look() {
    const waiting = this.waiting;
    if (!waiting) return;
    const settle = (how, value) => {
      this.waiting = null;
      clearTimeout(waiting.timer);
      waiting[how](value);
    };
    try {
      const answer = parse(this.buffer);
      if (answer) {
        this.buffer = this.buffer.subarray(answer.length);
        return settle('resolve', answer);
      }
    } catch (error) {
      return settle('reject', error);
    }
    if (this.over) settle('reject', this.over);
  }
}

function classify(error) {
  if (error.code === 'ECONNREFUSED') return new Failure('refused', error.message);
  if (error.code === 'ECONNRESET' || error.code === 'EPIPE') return new Failure('reset', error.message);
  return new Failure('cut', error.message);
}

// The first whole answer in the buffer, null while there is none.
function parse(buffer) {
  const end = buffer.indexOf('\r\n\r\n');
  if (end < 0) {
    if (buffer.length > 65536) throw new Failure('garbled', 'a head without an end');
    return null;
  }
  const head = buffer.toString('latin1', 0, end);
  const status = /^HTTP\/1\.[01] (\d{3})/.exec(head);
  if (!status) throw new Failure('garbled', head.slice(0, 60));
  const header = (name) => new RegExp(`\r\n${name}:[ \t]*([^\r\n]*)`, 'i').exec(head)?.[1].toLowerCase();
  const closing = header('connection') === 'close';
  const body = end + 4;
  if (header('transfer-encoding') === 'chunked') {
    let at = body;
    let text = '';
    for (;;) {
      const line = buffer.indexOf('\r\n', at);
      if (line < 0) return null;
      const size = parseInt(buffer.toString('latin1', at, line), 16);
      if (Number.isNaN(size)) throw new Failure('garbled', 'a chunk without a size');
      if (buffer.length < line + 2 + size + 2) return null;
      text += buffer.toString('utf8', line + 2, line + 2 + size);
      at = line + 2 + size + 2;
      if (size === 0) return { status: Number(status[1]), closing, text, length: at };
    }
  }
  const length = Number(header('content-length'));
  if (Number.isNaN(length)) throw new Failure('garbled', 'an answer without a length');
  if (buffer.length < body + length) return null;
  return { status: Number(status[1]), closing, text: buffer.toString('utf8', body, body + length), length: body + length };
}

async function client(answered) {
  let connection = null;
  while (!stopping) {
    const from = Date.now();
    // One that ended while it was idle had nothing of ours.
    if (connection?.over) connection = null;
    connection ??= new Connection();
    try {
      const answer = await connection.request();
      if (answer.status !== 200) throw new Failure('status', `${answer.status} ${answer.text.slice(0, 100)}`);
      ok++;
      const ms = Date.now() - from;
      latencies.push(ms);
      const pid = /"pid":(\d+)/.exec(answer.text)?.[1] ?? 0;
      answers[pid] = (answers[pid] ?? 0) + 1;
      if (connection.requests === 1) connections[pid] = (connections[pid] ?? 0) + 1;
      connection.pid = Number(pid);
      if (!keep || answer.closing) {
        connection.end(new Failure('cut', 'ended by the client'));
        connection = null;
      }
      answered();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      failed[error.kind]++;
      const reused = connection.requests > 1;
      const told = { kind: error.kind, at: from - began, ms: Date.now() - from, reused, pid: connection.pid, message: error.message };
      if (failures.length < MOST_TOLD) failures.push(told);
      connection.end(error);
      connection = null;
      // A server that refuses at once would otherwise be asked as fast as the machine can.
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    if (options.think) await new Promise((resolve) => setTimeout(resolve, options.think));
  }
  connection?.end(new Failure('cut', 'ended by the client'));
}

async function main() {
  let waitedFor = options.clients;
  const clients = Array.from({ length: options.clients }, () => {
    let first = true;
    return client(() => {
      if (first && --waitedFor === 0) console.log(JSON.stringify({ event: 'running' }));
      first = false;
    });
  });
  const stop = () => (stopping = true);
  if (options.seconds) setTimeout(stop, options.seconds * 1000);
  else process.stdin.on('end', stop).resume();
  await Promise.all(clients);
  latencies.sort((a, b) => a - b);
  const at = (share) => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] ?? 0;
  const seconds = (Date.now() - began) / 1000;
  const latency = { p50: at(0.5), p99: at(0.99), max: at(1) };
  console.log(JSON.stringify({ event: 'report', ok, seconds, failed, failures, latency, answers, connections }));
  process.exit(0);
}

main();
