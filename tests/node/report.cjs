// What every driver shares: one JSON line per event on standard output, in the shape of the programs' own log lines, and
// commands as JSON lines on standard input. The drivers only translate; what is right is decided by the test.
'use strict';

const crypto = require('crypto');
const readline = require('readline');

// Longest text that is shown whole; of anything longer, its digest tells.
const SHOWN = 200;

const report = (message, fields = {}) => {
  process.stdout.write(JSON.stringify({ fields: { message, ...fields } }) + '\n');
};

// A payload by type, length and SHA-256.
const payload = (data, binary) => {
  const bytes = Buffer.isBuffer(data) ? data : Buffer.from(data);
  const seen = {
    type: binary ? 'binary' : 'text',
    length: bytes.length,
    sha256: crypto.createHash('sha256').update(bytes).digest('hex'),
  };
  if (!binary && bytes.length <= SHOWN) seen.text = bytes.toString();
  return seen;
};

// Runs `handle` for each command; the end of the input ends the process, so that no driver outlives its test.
const commands = (handle) => {
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => handle(JSON.parse(line)));
  lines.on('close', () => process.exit(0));
};

// What a command wants sent: `text`, or `bytes` (base64).
const outgoing = (command) => (command.bytes === undefined ? command.text : Buffer.from(command.bytes, 'base64'));

module.exports = { commands, options: JSON.parse(process.argv[2]), outgoing, payload, report };
