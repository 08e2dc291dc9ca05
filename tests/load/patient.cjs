// For an app under load on a machine that may let it wait for seconds: Node ends a kept connection that was idle for 5 s,
// and when a whole process was held up it looks at its timers before it reads what has come meanwhile. A request is lost
// then, by plain Node as well, which is not what is tested.
'use strict';
const { Server } = require('node:net');

const { listen } = Server.prototype;
Server.prototype.listen = function (...args) {
  if ('keepAliveTimeout' in this) this.keepAliveTimeout = 60_000;
  return listen.apply(this, args);
};
