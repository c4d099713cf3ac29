// An HTTP service in the cluster, by Node's own modules: HTTP/1.1, HTTP/2 with prior knowledge, or HTTP/2 over TLS by ALPN.
// It does what few services do, and tells what it sees.
'use strict';

const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const { commands, options, report } = require('./report.cjs');

// What is declared and hardly ever sent: more than 32 bits count.
const HUGE = 5 * 1024 * 1024 * 1024;

// Who takes nothing for so long takes nothing.
const STALLED = 1000;

const collect = async (stream) => {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
};

// Sends zeros until nobody wants them any more, or `length` is reached.
const pour = (response, length) => {
  const piece = Buffer.alloc(64 * 1024);
  let sent = 0;
  let stalled = null;
  const more = () => {
    clearTimeout(stalled);
    while (sent < length) {
      sent += piece.length;
      if (!response.write(piece)) {
        stalled = setTimeout(() => report('stalled', { sent }), STALLED);
        return;
      }
    }
    response.end();
  };
  response.on('drain', more);
  response.on('close', () => {
    clearTimeout(stalled);
    report('closed', { finished: Boolean(response.writableFinished) });
  });
  more();
};

let events = null;

const serve = async (request, response) => {
  const path = request.url.split('?')[0];
  report('request', {
    method: request.method,
    path,
    version: request.httpVersion,
    secure: Boolean(request.socket.encrypted),
    server: request.socket.servername || '',
    traceparent: request.headers.traceparent || '',
    tracestate: request.headers.tracestate || '',
    length: request.headers['content-length'] || '',
  });
  if (path === '/hints') {
    response.writeEarlyHints({ link: '</a.css>; rel=preload' });
    response.end('hinted\n');
  } else if (path === '/early') {
    // Says no before it has read anything, and reads on.
    response.writeHead(413, { 'content-length': 6 });
    response.end('large\n');
    let length = 0;
    request.on('data', (piece) => (length += piece.length));
    request.on('end', () => report('read', { length }));
    request.on('close', () => report('early over'));
  } else if (path === '/trailers') {
    const body = await collect(request);
    response.writeHead(200, { trailer: 'x-sum' });
    response.write(body);
    response.addTrailers({ 'x-sum': `${body.length} ${request.trailers['x-sent'] || ''}` });
    response.end();
  } else if (path === '/huge') {
    response.writeHead(200, { 'content-length': HUGE });
    if (request.method === 'HEAD') response.end();
    else pour(response, HUGE);
  } else if (path === '/endless') {
    response.writeHead(200);
    pour(response, Infinity);
  } else if (path === '/swallow') {
    let length = 0;
    request.on('data', (piece) => {
      if (length === 0) report('swallowing');
      length += piece.length;
    });
    request.on('aborted', () => report('aborted'));
    request.on('end', () => {
      report('swallowed', { length });
      response.end(`${length}\n`);
    });
  } else if (path === '/events') {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.flushHeaders();
    events = response;
    response.on('close', () => report('events over'));
  } else if (path === '/continue') {
    const body = await collect(request);
    response.end(`${body.length}\n`);
  } else if (path === '/wait') {
    report('waiting');
    response.on('close', () => report('given up'));
  } else {
    response.end(`${request.method} ${request.url}\n`);
  }
};

// A service that decides about a body before it is sent.
const judge = (request, response) => {
  if (request.url === '/no') {
    response.writeHead(413, { 'content-length': 3 });
    return response.end('no\n');
  }
  report('go on');
  response.writeContinue();
  return serve(request, response);
};

const tls = () => ({ cert: fs.readFileSync(options.cert), key: fs.readFileSync(options.key), allowHTTP1: true });
const server =
  options.kind === 'h2c' ? http2.createServer() : options.kind === 'tls' ? http2.createSecureServer(tls()) : http.createServer();
server.on('request', serve);
server.on('checkContinue', judge);
server.listen(0, '127.0.0.1', () => {
  report('listening', { what: 'http', address: `127.0.0.1:${server.address().port}` });
});

commands((command) => {
  if (command.do === 'event') events.write(`data: ${command.data}\n\n`);
  if (command.do === 'end') events.end();
});
