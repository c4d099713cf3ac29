// Node's https client as an HTTP sender, with the addresses and tokens that hyco-https makes: one request per command.
'use strict';

const crypto = require('crypto');
const https = require('hyco-https');
const { commands, options, report } = require('./report.cjs');

commands((command) => {
  const path = options.entity + (command.path ?? '');
  const plain = https.createRelayHttpsUri(options.namespace, path);
  const token = https.createRelayToken(plain, options.rule, options.key);
  const url = command.inQuery ? https.createRelayHttpsUri(options.namespace, path, token, command.id) : plain;
  const headers = { ...command.headers };
  if (!command.inQuery) headers.ServiceBusAuthorization = token;
  const request = https.request(url, { method: command.method ?? 'GET', headers }, (response) => {
    const hash = crypto.createHash('sha256');
    let length = 0;
    let text = '';
    response.on('data', (piece) => {
      length += piece.length;
      hash.update(piece);
      if (text.length < 2000) text += piece;
    });
    response.on('end', () => {
      report('response', {
        tag: command.tag,
        status: response.statusCode,
        reason: response.statusMessage,
        headers: response.headers,
        length,
        sha256: hash.digest('hex'),
        text: text.slice(0, 2000),
      });
    });
    response.on('error', (error) => report('failed', { tag: command.tag, text: String(error) }));
  });
  request.on('error', (error) => report('failed', { tag: command.tag, text: String(error) }));
  // Several writes without a length go out chunked.
  for (const piece of command.pieces ?? []) request.write(Buffer.from(piece, 'base64'));
  request.end();
});

report('ready');
