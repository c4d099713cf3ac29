// A browser-grade HTTP client: fetch as Node ships it (undici). Run by e2e/service.rs with a base URL and the fields of
// each request; prints what it checked, and exits non-zero at the first surprise.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';

const [base, fields, largeDigest, headLength] = process.argv.slice(2);
const headers = JSON.parse(fields);
const get = (path, options = {}) => fetch(base + path, { ...options, headers: { ...headers, ...options.headers } });
let checked = 0;
const check = async (what, run) => {
  await run();
  checked += 1;
  console.log(`ok ${what}`);
};

await check('GET', async () => {
  const answer = await get('/');
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get('content-type'), 'text/html');
  assert.equal(await answer.text(), 'hello from the cluster\n');
});

await check('HEAD has no body, and a length if the way says lengths', async () => {
  const answer = await get('/', { method: 'HEAD' });
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get('content-length'), headLength === 'said' ? '23' : null);
  assert.equal(await answer.text(), '');
});

await check('404 comes from the target', async () => {
  const answer = await get('/missing');
  assert.equal(answer.status, 404);
  assert.match(await answer.text(), /nginx/);
});

await check('POST of text', async () => {
  const answer = await get('/echo?x=1', { method: 'POST', body: 'a body' });
  assert.equal(await answer.text(), 'POST /echo?x=1\na body\n');
});

await check('PUT of a stream without a length comes back whole', async () => {
  const pieces = Array.from({ length: 40 }, (_, index) => Buffer.alloc(10_007, index));
  const body = new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece);
      controller.close();
    },
  });
  const stored = await get('/files/stream.bin', { method: 'PUT', body, duplex: 'half' });
  assert.ok(stored.status === 201 || stored.status === 204, `status ${stored.status}`);
  await stored.arrayBuffer();
  const back = Buffer.from(await (await get('/files/stream.bin')).arrayBuffer());
  assert.ok(back.equals(Buffer.concat(pieces)), 'stored bytes differ');
});

await check('a large download, streamed', async () => {
  const answer = await get('/large.bin');
  const hash = createHash('sha256');
  for await (const piece of answer.body) hash.update(piece);
  assert.equal(hash.digest('hex'), largeDigest);
});

await check('a range', async () => {
  const answer = await get('/', { headers: { range: 'bytes=6-9' } });
  assert.equal(answer.status, 206);
  assert.equal(await answer.text(), 'from');
});

await check('not modified', async () => {
  const first = await get('/');
  await first.text();
  const etag = first.headers.get('etag');
  const answer = await get('/', { headers: { 'if-none-match': etag } });
  assert.equal(answer.status, 304);
});

await check('200 requests, 20 at a time, on kept connections', async () => {
  for (let round = 0; round < 10; round += 1) {
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) => get(`/echo?n=${round}-${index}`).then((answer) => answer.text())),
    );
    answers.forEach((text, index) => assert.equal(text, `GET /echo?n=${round}-${index}\n\n`));
  }
});

await check('a download given up in the middle leaves the next request alone', async () => {
  const abort = new AbortController();
  const answer = await get('/large.bin', { signal: abort.signal });
  const reader = answer.body.getReader();
  await reader.read();
  abort.abort();
  await assert.rejects(async () => {
    while (!(await reader.read()).done);
  });
  assert.equal(await (await get('/')).text(), 'hello from the cluster\n');
});

console.log(`checked ${checked} with undici ${process.versions.undici}`);
