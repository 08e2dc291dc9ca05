'use strict';
const { port, answer } = require('./answer');
const socket = require('node:dgram').createSocket('udp4');
socket.on('message', (message, peer) => socket.send(JSON.stringify(answer()), peer.port, peer.address));
socket.bind(port);
