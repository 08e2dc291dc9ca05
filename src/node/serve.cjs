// pm2rs's server of static files: what `pm2rs serve` and `script: "serve"` run. Configured by PM2's variables
// PM2_SERVE_PORT, _HOST, _PATH, _SPA, _FTP, _HOMEPAGE, _BASIC_AUTH, _BASIC_AUTH_USERNAME, _BASIC_AUTH_PASSWORD.
//
// It reads below its folder only, links followed as far as they stay there, and answers GET and HEAD.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { pipeline } = require('node:stream');

const env = (name, or) => process.env[`PM2_SERVE_${name}`] || or;
const on = (name) => env(name) === 'true';
const folder = fs.realpathSync(env('PATH', '.'));
const homepage = path.posix.join('/', env('HOMEPAGE', '/index.html'));
const account = on('BASIC_AUTH') ? `${env('BASIC_AUTH_USERNAME', '')}:${env('BASIC_AUTH_PASSWORD', '')}` : null;

const TYPES = {
  aac: 'audio/aac', avif: 'image/avif', bmp: 'image/bmp', cjs: 'text/javascript', css: 'text/css', csv: 'text/csv',
  eot: 'application/vnd.ms-fontobject', flac: 'audio/flac', gif: 'image/gif', gz: 'application/gzip',
  htm: 'text/html', html: 'text/html', ico: 'image/x-icon', ics: 'text/calendar', jpeg: 'image/jpeg', jpg: 'image/jpeg',
  js: 'text/javascript', json: 'application/json', jsonld: 'application/ld+json', m4a: 'audio/mp4', m4v: 'video/mp4',
  map: 'application/json', md: 'text/markdown', mjs: 'text/javascript', mov: 'video/quicktime', mp3: 'audio/mpeg',
  mp4: 'video/mp4', mpeg: 'video/mpeg', oga: 'audio/ogg', ogg: 'audio/ogg', ogv: 'video/ogg', opus: 'audio/ogg',
  otf: 'font/otf', pdf: 'application/pdf', png: 'image/png', rss: 'application/rss+xml', rtf: 'application/rtf',
  svg: 'image/svg+xml', tar: 'application/x-tar', tif: 'image/tiff', tiff: 'image/tiff', ttf: 'font/ttf',
  txt: 'text/plain', wasm: 'application/wasm', wav: 'audio/wav', weba: 'audio/webm', webm: 'video/webm',
  webmanifest: 'application/manifest+json', webp: 'image/webp', woff: 'font/woff', woff2: 'font/woff2',
  xhtml: 'application/xhtml+xml', xml: 'application/xml', yaml: 'application/yaml', yml: 'application/yaml',
  zip: 'application/zip',
};

function typeOf(file) {
  const type = TYPES[path.extname(file).slice(1).toLowerCase()] ?? 'text/plain';
  return type.startsWith('text/') || /[/+](json|xml)$/.test(type) ? `${type}; charset=utf-8` : type;
}

// Digests are of one length, so that comparing tells nothing about the password.
const digest = (text) => crypto.createHash('sha256').update(text).digest();
function allowed(request) {
  if (account === null) return true;
  const [scheme, code] = (request.headers.authorization ?? '').split(' ');
  const given = scheme.toLowerCase() === 'basic' ? Buffer.from(code ?? '', 'base64').toString() : '';
  return crypto.timingSafeEqual(digest(given), digest(account));
}

function say(response, status, text, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': Buffer.byteLength(text), ...headers });
  response.end(response.req.method === 'HEAD' ? undefined : text);
}

// A file, opened, or why there is none: ENOENT, EACCES (it is outside), EISDIR.
async function open(name) {
  const real = await fs.promises.realpath(path.join(folder, name));
  if (real !== folder && !real.startsWith(folder === '/' ? '/' : folder + path.sep)) throw Object.assign(new Error(), { code: 'EACCES' });
  // Without O_NONBLOCK a pipe in the folder would hold the request for ever.
  const handle = await fs.promises.open(real, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  const stat = await handle.stat();
  if (stat.isFile()) return { handle, stat, name };
  await handle.close();
  throw Object.assign(new Error(), { code: stat.isDirectory() ? 'EISDIR' : 'EACCES' });
}

async function first(...names) {
  let last;
  for (const name of names) {
    try {
      return await open(name);
    } catch (error) {
      last ??= error;
    }
  }
  throw last;
}

// RFC 9110, section 14: one range; anything else is answered with the whole.
function rangeOf(request, size) {
  const match = /^bytes=(\d*)-(\d*)$/.exec(request.headers.range ?? '');
  if (!match || (match[1] === '' && match[2] === '')) return null;
  const start = match[1] === '' ? Math.max(0, size - Number(match[2])) : Number(match[1]);
  const end = match[1] === '' || match[2] === '' ? size - 1 : Math.min(Number(match[2]), size - 1);
  return { start, end, valid: start <= end && start < size };
}

function send(request, response, { handle, stat, name }, status = 200) {
  const headers = { 'Content-Type': typeOf(name), 'Last-Modified': stat.mtime.toUTCString() };
  const since = Date.parse(request.headers['if-modified-since'] ?? '');
  const range = status === 200 ? rangeOf(request, stat.size) : null;
  const close = () => handle.close().catch(() => {});
  if (status === 200 && Math.floor(stat.mtimeMs / 1000) * 1000 <= since) {
    response.writeHead(304, headers).end();
    return close();
  }
  if (range && !range.valid) {
    say(response, 416, '416: range not satisfiable\n', { 'Content-Range': `bytes */${stat.size}` });
    return close();
  }
  const { start, end } = range ?? { start: 0, end: stat.size - 1 };
  if (range) headers['Content-Range'] = `bytes ${start}-${end}/${stat.size}`;
  if (status === 200) headers['Accept-Ranges'] = 'bytes';
  response.writeHead(range ? 206 : status, { ...headers, 'Content-Length': end - start + 1 });
  if (request.method === 'HEAD' || end < start) {
    response.end();
    return close();
  }
  // A file that shrinks meanwhile, or a client that leaves, ends the connection; the stream closes the file.
  pipeline(handle.createReadStream({ start, end }), response, () => {});
}

async function list(response, name) {
  const entries = await fs.promises.readdir(path.join(folder, name), { withFileTypes: true });
  const escape = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const rows = entries.filter((entry) => !entry.name.startsWith('.')).map((entry) => {
    const shown = entry.name + (entry.isDirectory() ? '/' : '');
    return `<li><a href="./${encodeURIComponent(entry.name)}${entry.isDirectory() ? '/' : ''}">${escape(shown)}</a></li>`;
  });
  const page = `<!doctype html><meta charset="utf-8"><title>${escape(name)}</title><h1>${escape(name)}</h1><ul>${rows.join('')}</ul>\n`;
  say(response, 200, page, { 'Content-Type': 'text/html; charset=utf-8' });
}

async function answer(request, response) {
  response.setHeader('Access-Control-Allow-Origin', '*');
  response.setHeader('Access-Control-Allow-Methods', 'GET');
  if (!allowed(request)) {
    return say(response, 401, '401: unauthorized\n', { 'WWW-Authenticate': 'Basic realm="Authentication service"' });
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') return say(response, 405, '405: method not allowed\n', { Allow: 'GET, HEAD' });
  let name;
  try {
    name = decodeURIComponent(request.url.split(/[?#]/, 1)[0]);
  } catch {
    return say(response, 400, '400: malformed address\n');
  }
  if (name.includes('\0')) return say(response, 400, '400: malformed address\n');
  if (name.split('/').includes('..')) return say(response, 403, '403: forbidden\n');
  const wanted = name === '/' && !on('FTP') ? homepage : name;
  try {
    return send(request, response, await first(wanted));
  } catch (error) {
    if (error.code === 'EISDIR') {
      // Relative addresses in a folder's page need the slash.
      if (!name.endsWith('/')) return say(response, 301, '', { Location: encodeURI(path.posix.join('/', name)) + '/' });
      try {
        return send(request, response, await first(path.join(name, 'index.html')));
      } catch {
        if (on('FTP')) return list(response, name);
      }
    } else if (error.code === 'EACCES' || error.code === 'EPERM') {
      return say(response, 403, '403: forbidden\n');
    } else if (!['ENOENT', 'ENOTDIR', 'ENAMETOOLONG', 'ELOOP'].includes(error.code)) {
      return say(response, 500, `500: cannot read the file (${error.code})\n`);
    }
  }
  if (on('SPA')) {
    // The same file at the root, for a page that lies deeper refers to its scripts relatively; else the page itself.
    const found = await first(...(path.extname(name) ? [path.basename(name)] : []), homepage).catch(() => null);
    if (found) return send(request, response, found);
  }
  const page = await first('404.html').catch(() => null);
  if (page) return send(request, response, page, 404);
  return say(response, 404, '404: not found\n');
}

const server = http.createServer((request, response) => {
  answer(request, response).catch((error) => {
    console.error(`cannot answer ${request.url}: ${error.message}`);
    if (response.headersSent) response.destroy();
    else say(response, 500, '500: internal error\n');
  });
});
server.on('error', (error) => {
  console.error(`cannot serve \`${folder}\`: ${error.message}`);
  process.exit(1);
});
server.listen(Number(env('PORT', 8080)), env('HOST', '0.0.0.0'), () => {
  console.log(`serving ${folder} on port ${server.address().port}`);
  // `serve` tells that it serves when it does.
  process.send?.('ready');
});
