// pm2rs's agent: lets a worker end without losing a request, though its app knows nothing of that.
//
// Loaded with `node --require`. It costs a running worker nothing: it notes which servers listen and waits for the
// supervisor's word on the channel that Node keeps for itself (`cmd: 'NODE_...'` never reaches 'message' listeners).
// It sends no signal and ends nothing; when it has said `drained`, the supervisor does what the app expects.
'use strict';

const { isMainThread } = require('node:worker_threads');

// How long a client may take to end a connection that we have ended, in ms.
const LINGER = 2000;

// Worker threads load --require too; a program that the app starts has no channel, or one that is not ours.
if (isMainThread && process.channel && process.send) start();

function start() {
  leaveExecArgv();
  // As ps(1) shows PM2's apps, and as their users look for them: not with the options that load this.
  process.title = process.env.PROCESS_TITLE || `node ${process.env.pm_exec_path}`;
  const cluster = require('node:cluster');
  const net = require('node:net');
  const send = process.send;
  const servers = new Set();
  const sockets = new Set();
  const sessions = new Set();
  const reusing = new WeakMap();
  let draining = false;
  let held = null;
  let waiting = null;

  process.on('internalMessage', (message) => {
    if (message?.cmd !== 'NODE_PM2RS') return;
    if (message.act === 'ping') report({ act: 'pong', seq: message.seq });
    if (message.act === 'drain') drain(Number(message.timeout) || 0);
    if (message.act === 'wait') waiting ??= [];
    if (message.act === 'admit') admit(message.backlog);
    if (message.act === 'held') for (const port of message.ports) held?.add(port);
  });

  const given = cluster.isWorker ? null : givenSockets();
  const listen = net.Server.prototype.listen;
  net.Server.prototype.listen = function (...args) {
    watch(this);
    return listen.apply(this, given?.replace(args) ?? withoutReusePort(this, args));
  };

  if (cluster.isWorker) {
    const getServer = cluster._getServer;
    cluster._getServer = function (server, options, callback) {
      if (!(server instanceof net.Server)) {
        sockets.add(server);
        server.once('close', () => sockets.delete(server));
      }
      return getServer.call(this, server, options, (error, handle) => {
        if (handle) listenWhenAdmitted(handle);
        // Who else has bound the port with this option shares it with us, but not with the supervisor.
        if (error && reusing.has(server) && servers.has(server)) listen.call(server, reusing.get(server));
        else callback(error, handle);
      });
    };
    held = hideHeldPorts(net);
  }
  surviveTheSupervisor(() => {
    // Of a cluster worker Node expects that it was told to leave, else it ends at once.
    if (cluster.worker) cluster.worker.exitedAfterDisconnect = true;
    if (!draining) serveAlone();
  });
  report({ act: 'hello', node: process.versions.node });

  function report(message) {
    // With a callback a failing send is no 'error' event; a supervisor that is gone is none of the app's business.
    if (process.connected) send.call(process, { cmd: 'NODE_PM2RS', ...message }, undefined, undefined, () => {});
  }

  function watch(server) {
    if (servers.has(server)) return;
    servers.add(server);
    server.on('listening', onListening);
    server.once('close', () => {
      servers.delete(server);
      server.removeListener('listening', onListening);
    });
    // What HTTP/2 servers have and no other; their connections are ended by GOAWAY, for which the session is needed.
    if (typeof server.updateSettings === 'function') {
      server.on('session', (session) => {
        sessions.add(session);
        session.once('close', () => sessions.delete(session));
        if (draining) endSession(session);
      });
    }
  }

  // With `reusePort` Node binds a socket for each worker and does not ask for ours, which shares the port just as well: but
  // what waits on a worker's own is reset when that one closes.
  function withoutReusePort(server, args) {
    const [options, ...rest] = args;
    reusing.delete(server);
    // On port 0 each worker is to have a port of its own.
    if (!cluster.isWorker || options?.reusePort !== true || options.exclusive || !Number(options.port)) return args;
    reusing.set(server, options);
    return [{ ...options, reusePort: false }, ...rest];
  }

  function onListening() {
    held?.show();
    held = null;
    const address = this.address();
    if (typeof address === 'string') report({ act: 'listening', address, port: -1 });
    else if (address) report({ act: 'listening', address: address.address, port: address.port });
  }

  // A newcomer that still has to prove itself leaves the socket that it shares with its predecessor alone. It listens as
  // far as its app can see; connections come to it once the supervisor says so.
  function listenWhenAdmitted(handle) {
    const { listen } = handle;
    if (!waiting || typeof listen !== 'function') return;
    handle.listen = (backlog) => {
      delete handle.listen;
      if (!waiting) return listen.call(handle, backlog);
      waiting.push((ours) => listen.call(handle, ours));
      return 0;
    };
  }

  function admit(backlog) {
    const handles = waiting ?? [];
    waiting = null;
    // A handle that its app has closed meanwhile says EBADF.
    for (const listen of handles) listen(backlog);
  }

  // RFC 9113, section 6.8: the first GOAWAY counts no stream out, for the client may be opening one; the one that counts them
  // comes when the client must have seen the first. What crosses the first nghttp2 refuses all the same, which clients may
  // ask again (REFUSED_STREAM), and Node has no other way to send it.
  function endSession(session) {
    if (session.closed || session.destroyed) return;
    session.goaway(0, 2 ** 31 - 1);
    setTimeout(() => session.close(), 500).unref();
  }

  // The supervisor is gone with all that it had, and its successor has no channel to ask for a drain by: the signal to
  // end has to do, for an app that leaves it to its default meaning.
  function serveAlone() {
    writeToNobody(send);
    const onSignal = (signal) => {
      if (process.listenerCount(signal) > 1) return;
      drain(Infinity, () => {
        process.removeListener(signal, onSignal);
        process.kill(process.pid, signal);
      });
    };
    for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, onSignal);
  }

  function drain(timeout, then = () => {}) {
    if (draining) return;
    draining = true;
    const began = Date.now();
    // For clients that send one request behind the other without end: these are cut off at one, and ask the rest again.
    const isLate = () => Date.now() - began > Math.min(timeout / 2, 5000);
    // Before the handles go: nothing may be answered as if the connection lived on.
    const latest = new WeakMap();
    require('node:diagnostics_channel').subscribe('http.server.request.start', ({ request, socket, response }) => {
      if (!latest.has(socket)) endBeforeClosing(socket, () => latest.get(socket).request);
      latest.set(socket, { request, response });
      endWith(response, () => latest.get(socket).response === response || isLate());
    });
    for (const server of servers) {
      readBeforeAnswering(server);
      stopAccepting(server);
    }
    for (const socket of sockets) stopReceiving(socket);
    for (const session of sessions) endSession(session);

    const look = () => {
      let left = 0;
      for (const server of servers) left += server._connections || 0;
      const ms = Date.now() - began;
      if (left > 0 && ms < timeout) return setTimeout(look, 15);
      report({ act: 'drained', left, ms });
      then();
      // An app that closes its server when the signal comes may end by itself then; the channel would keep it alive.
      if (servers.size > 0) process.channel?.unref();
    };
    // Connections that the kernel had handed over already become visible in the loop's next turn.
    setImmediate(look);
  }
}

// The response tells its client that the connection ends with it, whatever a framework or proxy says in its headers. Of
// requests that came one behind the other (RFC 9112, section 9.3.2), the last one's does: all of them are at work.
function endWith(response, isLast) {
  const { shouldKeepAlive, writeHead } = response;
  response.shouldKeepAlive = false;
  response.writeHead = function (status, ...rest) {
    if (status === 101 || this.headersSent) return writeHead.call(this, status, ...rest);
    if (!isLast()) {
      this.shouldKeepAlive = shouldKeepAlive;
      return writeHead.call(this, status, ...rest);
    }
    const headers = rest[rest.length - 1];
    if (Array.isArray(headers)) {
      rest[rest.length - 1] = Array.isArray(headers[0])
        ? headers.filter(([name]) => !isConnection(name))
        : headers.filter((_, i) => !isConnection(headers[i - (i % 2)]));
    } else if (headers !== null && typeof headers === 'object') {
      rest[rest.length - 1] = Object.fromEntries(Object.entries(headers).filter(([name]) => !isConnection(name)));
    }
    this.setHeader('Connection', 'close');
    return writeHead.call(this, status, ...rest);
  };
}

// Only what has come in whole is known to be the last: Node hands a request over before it looks at what came behind it.
function readBeforeAnswering(server) {
  const { emit } = server;
  server.emit = function (event, ...args) {
    if (event !== 'request') return emit.call(this, event, ...args);
    process.nextTick(() => emit.call(this, event, ...args));
    return this.listenerCount('request') > 0;
  };
}

// To close on what a client is still sending resets the connection, and it may never come to read the answer that was given
// before (RFC 9112, section 9.6): an upload is taken in whole first, and then whatever comes until the client ends as well.
function endBeforeClosing(socket, lastRequest) {
  const { destroySoon } = socket;
  socket.destroySoon = function () {
    const request = lastRequest();
    const end = () => lingerBeforeClosing(this, destroySoon);
    if (request.complete) end();
    else request.once('end', end);
  };
}

function lingerBeforeClosing(socket, destroySoon) {
  if (socket.destroyed || socket.readableEnded || socket.writableFinished) return destroySoon.call(socket);
  socket.once('end', () => destroySoon.call(socket));
  socket.once('finish', () => {
    const timer = setTimeout(() => socket.destroy(), LINGER);
    socket.once('close', () => clearTimeout(timer));
  });
  // No more requests are made of it: with a listener, what comes goes past Node's parser.
  socket.removeAllListeners('data');
  socket.on('data', () => {});
  socket.end();
  socket.resume();
}

function isConnection(name) {
  return String(name).toLowerCase() === 'connection';
}

// Closes the listening handle and nothing else: http.Server#close would cut idle kept-alive connections (Node >= 19),
// on which a request may be on its way. They end by keepAliveTimeout, as they would without a reload. A stand-in
// remains, so that the app's own close() and address() work later, and it keeps the process alive as a handle does.
function stopAccepting(server) {
  const handle = server._handle;
  if (!handle) return;
  const name = {};
  handle.getsockname?.(name);
  let hold = handle.hasRef?.() === false ? null : setInterval(() => {}, 0x7fffffff);
  const release = () => {
    clearInterval(hold);
    hold = null;
  };
  handle.close();
  server._handle = {
    close(callback) {
      release();
      if (typeof callback === 'function') setImmediate(callback);
    },
    ref() {
      hold ??= setInterval(() => {}, 0x7fffffff);
    },
    unref: release,
    hasRef: () => hold !== null,
    listen: () => 0,
    getsockname(out) {
      Object.assign(out, name);
      return 0;
    },
  };
}

// A UDP socket that stops reading leaves what comes to the workers that share it; it can still answer.
function stopReceiving(socket) {
  const state = Object.getOwnPropertySymbols(socket).find((symbol) => symbol.description === 'state symbol');
  socket[state]?.handle?.recvStop?.();
}

// The supervisor may die with all that it had, and its successor find us again: the end of the channel is no reason to
// end. Node calls `process.disconnect` then as the app may, so who means it is only seen where the channel is read; and a
// 'disconnect' listener would keep alive a program that has nothing left to do.
function surviveTheSupervisor(onEnd) {
  const symbol = Object.getOwnPropertySymbols(process).find((symbol) => symbol.description === 'kChannelHandle');
  const channel = process[symbol];
  const onread = channel?.onread;
  if (typeof onread !== 'function') return;
  channel.onread = function (bytes) {
    if (bytes === undefined) onEnd();
    return onread.call(this, bytes);
  };
}

// Until somebody reads again what the app writes, it is lost, as is what it sends: each an 'error' that would end it.
function writeToNobody(send) {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error) => {
      if (error.code !== 'EPIPE' && stream.listenerCount('error') === 1) throw error;
    });
  }
  process.send = (message, ...rest) => {
    const callback = rest.find((argument) => typeof argument === 'function');
    return send.call(process, message, undefined, undefined, callback ?? (() => {}));
  };
}

// Sockets that the supervisor opened for this process (sd_listen_fds(3)), named by their configured addresses with `_`
// for `:`. A server that asks for such an address gets the socket, which outlives this process: while it is replaced,
// connections wait.
function givenSockets() {
  if (Number(process.env.LISTEN_PID) !== process.pid) return null;
  const names = (process.env.LISTEN_FDNAMES || '').split(':').slice(0, Number(process.env.LISTEN_FDS) || 0);
  const sockets = new Map(names.map((name, i) => [name, 3 + i]));
  return {
    // The arguments of listen() with the socket in place of the address, or nothing when there is none for it.
    replace(args) {
      const [first, second] = args;
      const options = first !== null && typeof first === 'object' ? first : { port: first };
      if (typeof options.port === 'string' && options.port.startsWith('/')) options.path = options.port;
      const host = options === first ? options.host : typeof second === 'string' ? second : undefined;
      const name = namesOf(options.path, options.port, host).find((name) => sockets.has(name));
      if (name === undefined || options.exclusive || options.reusePort) return undefined;
      const fd = sockets.get(name);
      sockets.delete(name);
      return [{ fd, backlog: options.backlog }, ...args.filter((arg) => typeof arg === 'function')];
    },
  };
}

// How the address of a server may be written in the configuration.
function namesOf(path, port, host) {
  if (path) return [String(path)];
  if (!host || host === '::' || host === '0.0.0.0') return [`${port}`, `*_${port}`, `0.0.0.0_${port}`, `[__]_${port}`];
  if (host === 'localhost') return [`127.0.0.1_${port}`, `[__1]_${port}`];
  return [host.includes(':') ? `[${host.replace(/:/g, '_')}]_${port}` : `${host}_${port}`];
}

// The supervisor keeps an app's sockets while workers come and go, so a connection to its port succeeds though no worker
// is there yet. Programs that try to connect to learn whether their port is free (`serve` does) must find it free, as
// they would after a plain restart. Ends with the worker's first server.
function hideHeldPorts(net) {
  const ports = new Set();
  const { connect } = net.Socket.prototype;
  const hiding = function (...args) {
    const [first, second] = Array.isArray(args[0]) ? args[0] : args;
    const { port, host = 'localhost', path } = first !== null && typeof first === 'object' ? first : { port: first, host: second };
    if (path || !ports.has(Number(port)) || !isLoopback(host)) return connect.apply(this, args);
    const error = new Error(`connect ECONNREFUSED ${host}:${port}`);
    Object.assign(error, { errno: -111, code: 'ECONNREFUSED', syscall: 'connect', address: host, port: Number(port) });
    process.nextTick(() => this.destroy(error));
    return this;
  };
  net.Socket.prototype.connect = hiding;
  return {
    add: (port) => ports.add(port),
    show() {
      ports.clear();
      if (net.Socket.prototype.connect === hiding) net.Socket.prototype.connect = connect;
    },
  };
}

function isLoopback(host) {
  return typeof host !== 'string' || /^(localhost|127\..*|0\.0\.0\.0|::1?)$/.test(host);
}

// child_process.fork() passes execArgv on; what the app starts is not ours.
function leaveExecArgv() {
  const { realpathSync } = require('node:fs');
  const isAgent = (path) => {
    try {
      return realpathSync(path) === __filename;
    } catch {
      return false;
    }
  };
  const args = process.execArgv;
  const at = args.findIndex((arg, i) => arg === '--require' && i + 1 < args.length && isAgent(args[i + 1]));
  if (at < 0) return;
  // Where Node's permission model is on, the word before allows reading it.
  const allowed = args[at - 1] === `--allow-fs-read=${args[at + 1]}`;
  args.splice(allowed ? at - 1 : at, allowed ? 3 : 2);
}
