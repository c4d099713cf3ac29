// Preloaded into a listener: the hour after which Microsoft's packages renew their token passes in half a second.
'use strict';

const HOUR = 3_600_000;
const interval = globalThis.setInterval;
globalThis.setInterval = (run, time, ...rest) => interval(run, time === HOUR ? 500 : time, ...rest);
