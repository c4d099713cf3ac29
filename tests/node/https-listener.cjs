// hyco-https as a listener. What it answers is chosen by the last segments of the path:
//
// * `/echo`: the body that came, with the request's content type
// * `/seen`: what arrived, as JSON: method, url, headers, length and digest of the body
// * `/status/CODE/REASON`: that status with that reason, and the reason as body
// * `/bytes/N`: N bytes at once; `/pieces/N/SIZE`: N bytes in writes of SIZE
// * `/cookies`: two cookies and an array of one
// * `/never`: nothing at all
'use strict';

const crypto = require('crypto');
// Loading it replaces parts of Node's own https module in this process; requests are another process's business.
const https = require('hyco-https');
const { commands, options, report } = require('./report.cjs');

const token = () => {
  report('token');
  return https.createRelayToken(options.url, options.rule, options.key, options.seconds);
};

// Bytes whose place shows: the low byte of their offset.
const bytes = (length, from = 0) => {
  const block = Buffer.alloc(length);
  for (let index = 0; index < length; index += 1) block[index] = (from + index) % 251;
  return block;
};

const answer = (request, response, body) => {
  const path = request.url.split('?')[0].split('/').slice(2);
  const [what, first, second] = path.slice(path.findIndex((segment) => segment in answers));
  (answers[what] ?? answers.missing)(request, response, body, first, second);
};

const answers = {
  echo(request, response, body) {
    response.setHeader('Content-Type', request.headers['content-type'] ?? 'application/octet-stream');
    // The package never sends an answer that ends with an empty buffer.
    response.end(body.length > 0 ? body : undefined);
  },
  seen(request, response, body) {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({
      method: request.method,
      url: request.url,
      headers: request.headers,
      length: body.length,
      sha256: crypto.createHash('sha256').update(body).digest('hex'),
    }));
  },
  status(request, response, body, code, reason) {
    response.statusCode = Number(code);
    if (reason) response.statusMessage = decodeURIComponent(reason);
    response.end(decodeURIComponent(reason ?? ''));
  },
  bytes(request, response, body, length) {
    response.end(bytes(Number(length)));
  },
  pieces(request, response, body, length, size) {
    let sent = 0;
    const next = () => {
      if (sent >= Number(length)) return response.end();
      const piece = bytes(Math.min(Number(size), Number(length) - sent), sent);
      sent += piece.length;
      response.write(piece);
      setImmediate(next);
    };
    next();
  },
  cookies(request, response) {
    response.setHeader('Set-Cookie', ['one=1; Path=/', 'two=2; Path=/']);
    response.setHeader('X-Listener', 'hyco-https');
    response.end('cookies');
  },
  never() {},
  missing(request, response) {
    response.statusCode = 404;
    response.end('no such thing here');
  },
};

const server = https.createRelayedServer({ server: options.url, token }, (request, response) => {
  report('request', { method: request.method, url: request.url });
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => answer(request, response, Buffer.concat(pieces)));
});
server.on('listening', () => {
  // Who closes the control channel, and with what code, the package does not tell; its socket does.
  server.controlChannel.on('close', (code, reason) => report('channel closed', { code, reason: String(reason) }));
  report('listening');
});
server.on('requestchannel', (channel) => {
  report('rendezvous');
  channel.on('close', (code) => report('rendezvous closed', { code }));
});
server.on('error', (event) => report('error', { text: String(event.message ?? event) }));
server.on('close', () => report('stopped'));
server.listen();

commands((command) => {
  if (command.do === 'stop') server.close();
});
