import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { Scheduler } from '../index.js';
import { connect } from '../middleware.js';

const BODY = JSON.stringify({ model: 'llama', messages: [{ role: 'user', content: 'Hi' }] });
const USAGE = '{"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":0}}}';

/** A server with the middleware before `handle`; calls of the scheduler are noted. */
async function serve(t, handle, { options, before } = {}) {
  const scheduler = new Scheduler();
  scheduler.addEndpoint('10.0.0.1:8000');
  const calls = [];
  const noted = {
    pickBody: (path, body, fields) => scheduler.pickBody(path, body, fields),
    firstToken: (id) => { calls.push('first token'); scheduler.firstToken(id); },
    complete: (id, outcome) => { calls.push(outcome); scheduler.complete(id, outcome); },
  };
  const middleware = connect(noted, options);
  const server = http.createServer((request, response) => {
    before?.(request);
    middleware(request, response, (error) => {
      if (!error) return handle(request, response);
      response.writeHead(error.status).end(`${error.code}: ${error.message}`);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => { server.closeAllConnections(); server.close(); });
  const url = `http://127.0.0.1:${server.address().port}/v1/chat/completions`;
  const completed = async () => {
    while (scheduler.stats().requestsInFlight > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    return calls;
  };
  return { scheduler, url, completed, calls };
}

const post = (url, body = BODY, more = {}) => fetch(url, { method: 'POST', body, ...more });

test('a plain answer is completed with its usage', async (t) => {
  const { url, completed } = await serve(t, (request, response) => {
    assert.equal(request.p3sched.endpoint, '10.0.0.1:8000');
    assert.equal(request.p3sched.body.toString(), BODY);
    assert.equal(request.body, request.p3sched.body);
    response.setHeader('content-type', 'application/json');
    response.end(USAGE);
  });
  assert.equal(await (await post(url)).text(), USAGE);
  assert.deepEqual(await completed(), [{ success: true, promptTokens: 9, completionTokens: 2, cachedTokens: 0 }]);
});

const headers = [
  (response) => response.setHeader('content-type', 'text/event-stream'),
  (response) => response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' }),
  (response) => response.writeHead(200, 'OK', ['x-a', 'content-type', 'content-type', 'text/event-stream']),
];
headers.forEach((setHeaders, way) => test(`the first chunk of a stream is the first token, headers in way ${way}`, async (t) => {
  const { url, completed } = await serve(t, (request, response) => {
    setHeaders(response);
    response.flushHeaders();
    response.write('data: {}\n\n');
    response.write(Buffer.from(`data: ${USAGE.slice(0, 20)}`));
    request.p3sched.report({ servedBy: '10.0.0.2:8000' });
    response.end(`${USAGE.slice(20)}\n\n`);
  });
  await (await post(url)).text();
  assert.deepEqual(await completed(), [
    'first token',
    { success: true, promptTokens: 9, completionTokens: 2, cachedTokens: 0, servedBy: '10.0.0.2:8000' },
  ]);
}));

test('a client that leaves ends the request', async (t) => {
  const { url, completed } = await serve(t, (request, response) => {
    response.setHeader('content-type', 'text/event-stream');
    response.write('data: {}\n\n');
  });
  const leave = new AbortController();
  const response = await post(url, BODY, { signal: leave.signal });
  await response.body.getReader().read();
  leave.abort();
  assert.deepEqual(await completed(), ['first token', { success: false }]);
});

test('a report that cannot be used is a warning, and the rest counts', async (t) => {
  const { url, scheduler } = await serve(t, (request, response) => {
    request.p3sched.report({ servedFrom: '10.0.0.2:8000' });
    response.end(USAGE);
  });
  const warned = once(process, 'warning');
  await (await post(url)).text();
  const [warning] = await warned;
  assert.match(warning.message, /unknown field `servedFrom`, expected one of /);
  const { counters, requestsInFlight } = scheduler.stats();
  assert.deepEqual([counters.completedRequests, counters.failedRequests, requestsInFlight], [1, 0, 0]);
});

test('an answer that is an error is no success', async (t) => {
  const { url, completed } = await serve(t, (request, response) => response.writeHead(502).end());
  assert.equal((await post(url)).status, 502);
  assert.deepEqual(await completed(), [{ success: false }]);
});

test('what cannot be picked for is an error with a status', async (t) => {
  const { url, scheduler, calls } = await serve(t, () => assert.fail('was picked'), { options: { maxBodyBytes: 100 } });
  const status = async (body) => {
    const response = await post(url, body);
    return [response.status, (await response.text()).split(':')[0]];
  };
  assert.deepEqual(await status('{'), [400, 'InvalidRequest']);
  assert.deepEqual(await status('x'.repeat(101)), [413, 'InvalidRequest']);
  scheduler.removeEndpoint('10.0.0.1:8000');
  assert.deepEqual(await status(BODY), [503, 'NoEndpoints']);
  assert.deepEqual(calls, []);
});

test('a body that was parsed before serves as well', async (t) => {
  const bodies = [];
  const answer = (request, response) => { bodies.push(request.p3sched.body.toString()); response.end(); };
  for (const body of [BODY, Buffer.from(BODY), JSON.parse(BODY)]) {
    const before = (request) => {
      request.body = body;
      request.readableEnded || Object.defineProperty(request, 'readableEnded', { value: true });
    };
    const { url } = await serve(t, answer, { before });
    assert.equal((await post(url)).status, 200);
  }
  assert.deepEqual(bodies, [BODY, BODY, BODY]);
});

test('a path without a prompt is picked for by load, and fields go beside the body', async (t) => {
  const fields = (request) => ({ session: request.headers['x-session'] });
  const { url, scheduler } = await serve(t, (request, response) => response.end(), { options: { fields } });
  assert.equal((await fetch(new URL('/v1/models', url), { headers: { 'x-session': 'a' } })).status, 200);
  assert.equal(scheduler.stats().counters.picks, 1);
});
