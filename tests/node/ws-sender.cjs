// hyco-ws as a sender: one connection; sends and closes as it is told.
'use strict';

const WebSocket = require('hyco-ws');
const { commands, options, outgoing, payload, report } = require('./report.cjs');

const token = options.rule ? WebSocket.createRelayToken(options.url, options.rule, options.key) : null;

let socket;
if (options.inQuery) {
  // The package's own helper puts the token into the address.
  socket = WebSocket.relayedConnect(WebSocket.appendRelayToken(options.url, options.rule, options.key), null);
} else if (options.protocols) {
  // The helper takes no subprotocols; the class that it wraps does.
  socket = new WebSocket(options.url, options.protocols, { headers: { ServiceBusAuthorization: token } });
} else {
  socket = WebSocket.relayedConnect(options.url, token);
}

socket.on('open', () => report('open', { protocol: socket.protocol ?? '', extensions: Object.keys(socket.extensions ?? {}) }));
socket.on('message', (data, flags) => report('message', payload(data, flags.binary === true)));
socket.on('close', (code, reason) => report('close', { code, reason: String(reason) }));
socket.on('error', (error) => report('error', { text: String(error) }));

commands((command) => {
  if (command.do === 'send') socket.send(outgoing(command), { binary: command.bytes !== undefined });
  if (command.do === 'fragments') {
    const pieces = command.pieces.map((piece) => Buffer.from(piece, 'base64'));
    socket.stream({ binary: true }, (error, send) => {
      if (error) return report('error', { text: String(error) });
      const piece = pieces.shift();
      send(piece, pieces.length === 0);
    });
  }
  if (command.do === 'ping') socket.ping();
  if (command.do === 'close') socket.close(command.code, command.reason);
});
