// Evaluates a configuration and writes what it comes to, as JSON between two marks, to standard output.
// What the configuration itself prints goes to standard error.
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const { pathToFileURL } = require('node:url');
const vm = require('node:vm');

const [mode, subject, mark, ...argv] = process.argv.slice(1);
process.argv.splice(1, process.argv.length, 'pm2rs', ...argv);
process.stdout.write = process.stderr.write.bind(process.stderr);

function answer(result) {
  let bytes = Buffer.from(mark + JSON.stringify(result, asPlainData) + mark);
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(fs.writeSync(1, bytes));
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
    }
  }
  process.exit(0);
}

// What JSON has no words for and configurations contain all the same. Called with the holder as `this`.
function asPlainData(key, value) {
  if (value instanceof RegExp) return `regex:${value.source}`;
  if (typeof value === 'bigint') return Number(value);
  if (value === Infinity) return 'Infinity';
  return value;
}

// The first place in a stack that is not Node's own: the configuration, or a module it uses.
function placeIn(stack) {
  return String(stack).match(/(?:^|[\s(]|file:\/\/)(\/[^\n()]*?):(\d+)(?::\d+)?(?=\)|\s|$)/);
}

function complain(error) {
  let place = placeIn((error && error.stack) || '');
  if (!place && error instanceof SyntaxError && mode === 'file') {
    // import() does not say where the syntax of an ES module is wrong, node --check does.
    const check = spawnSync(process.execPath, ['--check', subject], { encoding: 'utf8', timeout: 10_000 });
    place = placeIn(check.stderr);
  }
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  answer({ error: { message, code: error && error.code, file: place && place[1], line: place && Number(place[2]) } });
}

async function evaluate() {
  if (mode === 'expression') {
    const text = fs.readFileSync(0, 'utf8');
    return vm.runInThisContext(`(${text}\n)`, { filename: subject, timeout: 1000 });
  }
  const namespace = await import(pathToFileURL(subject).href);
  let exported = namespace.default ?? { ...namespace };
  // A module compiled from ESM to CommonJS keeps its default export one level down.
  if (exported.__esModule && exported.default !== undefined) exported = exported.default;
  return typeof exported === 'function' ? exported() : exported;
}

process.on('uncaughtException', complain);
process.on('unhandledRejection', complain);
evaluate().then((value) => answer({ value }), complain);
