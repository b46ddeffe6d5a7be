import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Scheduler } from '../index.js';
import { pollMetrics } from '../poller.js';

const PAGE = 'vllm:num_requests_waiting{engine="0"} 7\n';

/** An engine's metrics page. */
async function engine(t, answer) {
  const server = http.createServer(answer).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return `127.0.0.1:${server.address().port}`;
}

/** Waits until what is said of an endpoint holds. */
async function until(scheduler, name, holds) {
  for (;;) {
    const known = scheduler.stats().endpoints.find(({ endpoint }) => endpoint === name);
    if (known && holds(known)) return known;
    await sleep(5);
  }
}

function start(t, scheduler, options) {
  const stop = new AbortController();
  const ended = pollMetrics(scheduler, { intervalMs: 10, signal: stop.signal, ...options });
  t.after(async () => { stop.abort(); await ended; });
  return { stop, ended };
}

test('endpoints are polled, also those that come later', { timeout: 20_000 }, async (t) => {
  const scheduler = new Scheduler();
  const [first, second] = [await engine(t, (_, response) => response.end(PAGE)), await engine(t, (_, response) => response.end(PAGE))];
  scheduler.addEndpoint(first);
  const { stop, ended } = start(t, scheduler);
  await until(scheduler, first, ({ waitingRequests }) => waitingRequests === 7);
  scheduler.setEndpoints([second]);
  await until(scheduler, second, ({ waitingRequests }) => waitingRequests === 7);
  stop.abort();
  await ended;
});

test('an endpoint where nobody listens is out, and comes back', { timeout: 20_000 }, async (t) => {
  const scheduler = new Scheduler();
  const server = http.createServer((_, response) => response.end(PAGE)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  const name = `127.0.0.1:${port}`;
  scheduler.addEndpoint(name);
  const errors = [];
  start(t, scheduler, { maxIntervalMs: 50, onError: (endpoint, error) => errors.push([endpoint, error.cause?.code]) });
  await until(scheduler, name, ({ reachable }) => !reachable);
  assert.deepEqual(errors[0], [name, 'ECONNREFUSED']);
  server.listen(port, '127.0.0.1');
  t.after(() => server.close());
  await until(scheduler, name, ({ reachable, waitingRequests }) => reachable && waitingRequests === 7);
});

test('an engine that answers with something else than metrics is alive', { timeout: 20_000 }, async (t) => {
  const scheduler = new Scheduler({ metrics: { dead_after_scrapes: 1, dead_after_seconds: 0 } });
  const name = await engine(t, (_, response) => response.writeHead(404).end('<html>'));
  scheduler.addEndpoint(name);
  const errors = [];
  start(t, scheduler, { onError: (_, { message }) => errors.push(message) });
  while (errors.length < 2) await sleep(5);
  assert.equal(errors[0], 'unexpected status: `404`');
  await until(scheduler, name, ({ reachable }) => reachable);
});

test('an engine that does not answer in time has failed, and others do not wait for it', { timeout: 20_000 }, async (t) => {
  const scheduler = new Scheduler({ metrics: { dead_after_scrapes: 1, dead_after_seconds: 0 } });
  const slow = await engine(t, (request) => t.after(() => request.socket.destroy()));
  const fast = await engine(t, (_, response) => response.end(PAGE));
  scheduler.setEndpoints([slow, fast]);
  start(t, scheduler, { timeoutMs: 100 });
  await until(scheduler, fast, ({ waitingRequests }) => waitingRequests === 7);
  await until(scheduler, slow, ({ reachable }) => !reachable);
});

test('address and fetch can be replaced', { timeout: 20_000 }, async (t) => {
  const scheduler = new Scheduler();
  scheduler.addEndpoint('engine:8000');
  const asked = [];
  const dispatcher = {};
  const fetch = async (url, options) => {
    asked.push([url, options.dispatcher === dispatcher]);
    return new Response(PAGE);
  };
  start(t, scheduler, { fetch, dispatcher, scheme: 'https', path: '/m' });
  await until(scheduler, 'engine:8000', ({ waitingRequests }) => waitingRequests === 7);
  assert.deepEqual(asked[0], ['https://engine:8000/m', true]);
});

test('a page beyond the limit is not read to its end', { timeout: 20_000 }, async (t) => {
  const scheduler = new Scheduler();
  const name = await engine(t, (request, response) => {
    const chunk = Buffer.alloc(1024 * 1024, '#');
    const more = () => response.write(chunk, (error) => { if (!error && !response.destroyed) more(); });
    more();
  });
  scheduler.addEndpoint(name);
  const errors = [];
  start(t, scheduler, { onError: (_, { message }) => errors.push(message) });
  while (errors.length < 1) await sleep(5);
  assert.equal(errors[0], 'a page must have bytes at most: `8388608`');
  await until(scheduler, name, ({ reachable }) => reachable);
});

test('an error of the listener ends nothing', { timeout: 20_000 }, async (t) => {
  const scheduler = new Scheduler();
  const name = await engine(t, (_, response) => response.writeHead(500).end());
  scheduler.addEndpoint(name);
  const warning = once(process, 'warning');
  let calls = 0;
  start(t, scheduler, {
    onError: () => {
      calls += 1;
      throw new Error('of the listener');
    },
  });
  while (calls < 2) await sleep(5);
  assert.match((await warning)[0].message, /onError of pollMetrics has thrown: Error: of the listener/);
});
