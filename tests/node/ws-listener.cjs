// hyco-ws as a listener: echoes each message, and closes when it is told to.
'use strict';

const WebSocket = require('hyco-ws');
const { commands, options, outgoing, payload, report } = require('./report.cjs');

const token = () => {
  report('token');
  return WebSocket.createRelayToken(options.url, options.rule, options.key, options.seconds);
};
const sockets = [];

const settings = { server: options.url, token };
if (options.protocol) {
  settings.handleProtocols = (offered, choose) => {
    report('offered', { protocols: offered });
    choose(true, options.protocol);
  };
}

const server = WebSocket.createRelayedServer(settings, (socket) => {
  const number = sockets.push(socket) - 1;
  report('connection', { number, url: socket.url });
  // The socket is handed over before it is open.
  socket.on('open', () => report('open', { number, protocol: socket.protocol ?? '' }));
  socket.on('message', (data, flags) => {
    const binary = flags.binary === true;
    report('message', { number, ...payload(data, binary) });
    if (!options.quiet) socket.send(data, { binary });
  });
  socket.on('close', (code, reason) => report('close', { number, code, reason: String(reason) }));
  socket.on('error', (error) => report('socket error', { number, text: String(error) }));
});
server.on('listening', () => report('listening'));
server.on('error', (event) => report('error', { text: String(event.message ?? event) }));
server.on('headers', (headers) => report('headers', { headers }));
server.on('close', () => report('stopped'));

commands((command) => {
  const socket = sockets[command.number];
  if (command.do === 'send') socket.send(outgoing(command), { binary: command.bytes !== undefined });
  if (command.do === 'close') socket.close(command.code, command.reason);
  if (command.do === 'stop') server.close();
});
