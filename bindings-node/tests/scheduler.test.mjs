import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { blockHashes, KvEventBatch, preset, readLoadHeader, Scheduler } from '../index.js';

const require = createRequire(import.meta.url);
const PATH = '/v1/chat/completions';
const BODY = JSON.stringify({ model: 'llama', messages: [{ role: 'user', content: 'Tell me about the sea. '.repeat(40) }] });
const SECOND = 1e9;

function scheduler(config, endpoints = 3) {
  const made = new Scheduler(config);
  made.setEndpoints(Array.from({ length: endpoints }, (_, n) => `10.0.0.${n}:8000`));
  return made;
}

test('the same prompt goes where it was', () => {
  const picker = scheduler();
  const first = picker.pickBody(PATH, BODY);
  assert.equal(first.matchedTokens, 0);
  picker.firstToken(first.id);
  picker.complete(first.id, { success: true });
  for (const body of [BODY, Buffer.from(BODY), new TextEncoder().encode(BODY)]) {
    const again = picker.pickBody(PATH, body);
    assert.equal(again.endpoint, first.endpoint);
    assert.ok(again.matchedTokens > 200 && again.matchedTokens <= again.promptTokens);
    assert.deepEqual(Object.keys(again), ['id', 'endpoint', 'fallbacks', 'matchedTokens', 'promptTokens']);
    picker.complete(again.id, { success: true });
  }
  const { counters, requestsInFlight } = picker.stats();
  assert.deepEqual([counters.picks, counters.warmPicks, counters.completedRequests, requestsInFlight], [4, 3, 4, 0]);
});

test('a request may be given as text, as bytes or as token ids', () => {
  const picker = scheduler();
  const tokens = Array.from({ length: 64 }, (_, n) => n);
  const first = picker.pick({ model: 'llama', tokens });
  assert.equal(picker.pick({ model: 'llama', tokens: Uint32Array.from(tokens) }).endpoint, first.endpoint);
  assert.equal(first.promptTokens, 64);
  const text = 'x'.repeat(640);
  assert.equal(picker.pick({ model: 'llama', prompt: text }).matchedTokens, 0);
  assert.equal(picker.pick({ model: 'llama', prompt: Buffer.from(text) }).matchedTokens, 160);
  assert.equal(picker.pick({ model: 'llama', prompt: text, cacheSalt: 'tenant' }).matchedTokens, 0);
});

test('fallbacks come in their order', () => {
  const { endpoint, fallbacks } = scheduler({ fallbacks: 2 }).pickBody(PATH, BODY);
  assert.deepEqual([endpoint, ...fallbacks].sort(), ['10.0.0.0:8000', '10.0.0.1:8000', '10.0.0.2:8000']);
});

test('what a gateway knows goes beside the body', () => {
  const picker = scheduler();
  const subset = ['10.0.0.2:8000'];
  assert.equal(picker.pickBody(PATH, BODY, { subset }).endpoint, '10.0.0.2:8000');
  assert.equal(picker.pickBody(PATH, BODY, { adapter: 'sql' }).matchedTokens, 0);
  assert.equal(picker.pickBody(PATH, BODY, { session: undefined, adapter: null }).matchedTokens > 0, true);
  assert.throws(() => picker.pickBody(PATH, BODY, { cache_salt: 's' }), {
    code: 'InvalidRequest',
    message: /unknown field `cache_salt`, expected one of: model, .*cacheSalt/,
  });
});

test('a decision tells why, if it is asked', () => {
  const picker = scheduler();
  const decision = picker.pickBody(PATH, BODY, { explain: true });
  assert.equal(decision.explanation.endpoints[0].endpoint, decision.endpoint);
  assert.deepEqual(decision.explanation.endpoints[0].scores.map(({ weight }) => weight), [3, 1, 1]);
  assert.equal(decision.explanation.runnerUpDistance, 0);
  assert.match(decision.explanationText, /^endpoint +total +matched.*\n10\.0\.0/);
  assert.equal(JSON.parse(JSON.stringify(decision)).explanation.tieRule, decision.explanation.tieRule);
  const { picks } = picker.stats().counters;
  const foreseen = picker.explainBody(PATH, BODY);
  assert.equal(foreseen.id, 0);
  assert.equal(foreseen.endpoint, picker.explain({ model: 'x', prompt: '', subset: [foreseen.endpoint] }).endpoint);
  assert.equal(picker.stats().counters.picks, picks);
});

test('time can be given', () => {
  const picker = scheduler({ bookings: { request_timeout_seconds: 10 } });
  const { id } = picker.pickBody(PATH, BODY, { now: SECOND });
  assert.equal(picker.stats({ now: 10 * SECOND }).requestsInFlight, 1);
  assert.equal(picker.stats({ now: 12 * SECOND }).requestsInFlight, 0);
  picker.complete(id, { success: true }, { now: 13 * SECOND });
  for (const now of [-1, 0.5, Number.NaN, 2 ** 53]) {
    assert.throws(() => picker.pickBody(PATH, BODY, { now }), { code: 'InvalidRequest', message: /now must be a whole number from 0 to 9007199254740991: `/ });
  }
});

test('metrics move the choice', () => {
  const picker = scheduler();
  const page = (waiting) => `vllm:num_requests_waiting{engine="0"} ${waiting}\nvllm:kv_cache_usage_perc{engine="0"} 0.5\n`;
  picker.ingestMetrics('10.0.0.0:8000', page(9));
  picker.ingestMetrics('10.0.0.1:8000', Buffer.from(page(9)));
  picker.observe('10.0.0.2:8000', { waitingRequests: 0, kvCacheUtilization: 0.1, blockCount: 2 ** 33 });
  assert.equal(picker.pickBody(PATH, BODY).endpoint, '10.0.0.2:8000');
  picker.ingestLoadHeader('10.0.0.2:8000', 'JSON {"named_metrics":{"num_requests_waiting":50}}');
  picker.scrapeFailed('10.0.0.0:8000', 'unreachable');
  const known = new Map(picker.stats().endpoints.map((endpoint) => [endpoint.endpoint, endpoint]));
  assert.equal(known.get('10.0.0.2:8000').waitingRequests, 50);
  assert.equal(known.get('10.0.0.0:8000').reachable, false);
  assert.equal(known.get('10.0.0.1:8000').kvCacheUtilization, 0.5);
});

test('what engines say of their caches counts', () => {
  const picker = scheduler({ kv_events: { model: 'llama' } });
  const tokenIds = Array.from({ length: 64 }, (_, n) => n);
  const event = { type: 'stored', blockHashes: [11, 2n ** 63n], tokenIds, blockSize: 32 };
  picker.applyKvEvent('10.0.0.1:8000', event);
  const held = () => picker.explain({ model: 'llama', tokens: tokenIds });
  assert.deepEqual([held().endpoint, held().matchedTokens], ['10.0.0.1:8000', 64]);
  const batch = { sequence: 0, events: [{ type: 'cleared' }] };
  assert.deepEqual(picker.applyKvBatch('10.0.0.1:8000', batch), { type: 'applied' });
  assert.equal(held().matchedTokens, 0);
  assert.deepEqual(picker.applyKvBatch('10.0.0.1:8000', { sequence: 5 }), { type: 'gap', expected: 1 });
  picker.resumeKvEvents('10.0.0.1:8000', 0, 5);
  assert.deepEqual(picker.applyKvBatch('10.0.0.1:8000', new KvEventBatch({ sequence: 5, events: [event] })), { type: 'applied' });
  assert.deepEqual(new KvEventBatch({ events: [event] }).events[0].blockHashes, [11, 2n ** 63n]);
});

test('a snapshot outlives the scheduler', () => {
  const picker = scheduler();
  const { endpoint } = picker.pickBody(PATH, BODY);
  const snapshot = picker.snapshot();
  assert.ok(Buffer.isBuffer(snapshot));
  const next = scheduler();
  next.restore(snapshot);
  const { endpoint: same, matchedTokens } = next.pickBody(PATH, BODY);
  assert.equal(same, endpoint);
  assert.ok(matchedTokens > 200);
});

test('endpoints come and go', () => {
  const picker = new Scheduler({ preset: 'round-robin', load_gate_seconds: null });
  picker.addEndpoint({ name: 'a:1', labels: { some_zone: 'x' } });
  picker.addEndpoint('b:1');
  picker.setEndpoints(new Set(['b:1', 'c:1']));
  picker.removeEndpoint('c:1');
  assert.deepEqual(picker.stats().endpoints.map(({ endpoint }) => endpoint), ['b:1']);
  assert.equal(picker.config.preset, 'round-robin');
});

test('an argument of the wrong type is named, and changes nothing', () => {
  const picker = scheduler();
  for (const endpoints of ['10.0.0.1:8000', 5, {}, undefined]) {
    assert.throws(() => picker.setEndpoints(endpoints), { name: 'TypeError', code: 'InvalidArg', message: /^endpoints must be a list/ });
  }
  assert.equal(picker.stats().endpoints.length, 3);
  for (const body of [undefined, null, 5, {}, new ArrayBuffer(4), new Float64Array(2)]) {
    assert.throws(() => picker.pickBody(PATH, body), { name: 'TypeError', code: 'InvalidArg', message: /^body must be .*: `\w+`$/ });
  }
  assert.equal(picker.pickBody(PATH, BODY, null).id, 1);
});

test('numbers that do not fit are refused, and named', () => {
  const picker = scheduler();
  const whole = (name, high, value, low = 0) => ({ code: 'InvalidRequest', message: `invalid request: ${name} must be a whole number from ${low} to ${high}: \`${value}\`` });
  const [INT32, UINT32, SAFE] = [2 ** 31 - 1, 2 ** 32 - 1, Number.MAX_SAFE_INTEGER];
  for (const priority of [1.5, 2 ** 40, -(2 ** 31) - 1, Number.NaN, -Infinity]) {
    assert.throws(() => picker.pick({ prompt: 'Hi', priority }), whole('priority', INT32, priority, -(2 ** 31)));
  }
  for (const priority of [-(2 ** 31), 2 ** 31 - 1]) assert.equal(picker.explain({ prompt: 'Hi', priority }).id, 0);
  for (const rank of [-1, 0.5, 2 ** 32]) assert.throws(() => picker.resumeKvEvents('10.0.0.0:8000', rank, 0), whole('rank', UINT32, rank));
  for (const next of [-1, 0.5, 2 ** 53]) assert.throws(() => picker.resumeKvEvents('10.0.0.0:8000', 0, next), whole('next', SAFE, next));
  for (const id of [-1, 0.5, Number.NaN]) assert.throws(() => picker.firstToken(id), whole('id', SAFE, id));
  for (const size of [-1, 1.5, 2 ** 32]) {
    const request = { model: 'm', prompt: 'x' };
    assert.throws(() => blockHashes(request, { blockSizeTokens: size, bytesPerToken: 4 }), whole('blockSizeTokens', UINT32, size));
    assert.throws(() => blockHashes(request, { blockSizeTokens: 16, bytesPerToken: size }), whole('bytesPerToken', UINT32, size));
    assert.throws(() => blockHashes(request, { blockSizeTokens: 16, bytesPerToken: 4, maxPrefixTokens: size }), whole('maxPrefixTokens', UINT32, size));
  }
  assert.throws(() => KvEventBatch.decode(Buffer.from([1]), -1), whole('sequence', SAFE, -1));
  assert.equal(picker.stats().counters.picks, 0);
});

test('a prompt is either text or tokens', () => {
  const picker = scheduler();
  const either = { code: 'InvalidRequest', message: 'invalid request: give either `prompt` or `tokens`' };
  assert.throws(() => picker.pick({ prompt: 'Hi', tokens: [1] }), either);
  assert.throws(() => picker.pickBody(PATH, BODY, { tokens: [1], prompt: 'Hi' }), either);
  assert.equal(picker.pick({ prompt: undefined, tokens: [1] }).promptTokens, 1);
  assert.equal(picker.pick({ prompt: 'Hi', tokens: null }).id, 2);
});

test('what is wrong is named as JavaScript names it', () => {
  const picker = scheduler();
  const plain = 'must be plain data: finite numbers, strings, true, false, null, and arrays and objects of them';
  const wrong = [
    [() => picker.pickBody(5, BODY), 'path must be a string: `5`'],
    [() => picker.pickBody(5, BODY, {}), 'path must be a string: `5`'],
    [() => picker.pickBody(PATH, BODY, 'x'), 'options must be an object: `x`'],
    [() => picker.pickBody(PATH, BODY, { now: 'x' }), 'now must be a number: `x`'],
    [() => picker.pick(5), 'request must be an object: `5`'],
    [() => picker.pick({}, { now: 1n }), 'now must be a number: `1`'],
    [() => picker.firstToken('x'), 'id must be a number: `x`'],
    [() => picker.complete(1), 'outcome must be an object: `undefined`'],
    [() => picker.complete('x', {}), 'id must be a number: `x`'],
    [() => picker.complete(1, { success: () => {} }), `outcome.success ${plain}: \`Function\``],
    [() => picker.addEndpoint(undefined), 'endpoint must be a string or an object: `undefined`'],
    [() => picker.setEndpoints(['a:1', 5]), 'endpoints[1] must be a string or an object: `5`'],
    [() => picker.removeEndpoint(), 'name must be a string: `undefined`'],
    [() => picker.observe('10.0.0.0:8000', { waitingRequests: Number.NaN }), `metrics.waitingRequests ${plain}: \`NaN\``],
    [() => picker.observe(5, {}), 'endpoint must be a string: `5`'],
    [() => picker.scrapeFailed('10.0.0.0:8000', 5), 'failure must be a string: `5`'],
    [() => picker.resumeKvEvents('10.0.0.0:8000', '0', 0), 'rank must be a number: `0`'],
    [() => picker.applyKvBatch('10.0.0.0:8000', null), 'batch must be an object: `null`'],
    [() => KvEventBatch.decode(5, 0), 'payload must be a string, a Buffer or a Uint8Array: `5`'],
    [() => preset(5), 'name must be a string: `5`'],
    [() => readLoadHeader(5), 'value must be a string: `5`'],
    [() => blockHashes({}), 'options must be an object: `undefined`'],
    [() => new Scheduler(5), 'config must be a string or an object: `5`'],
    [() => new Scheduler({ scorers: [Symbol('s')] }), `config.scorers[0] ${plain}: \`Symbol(s)\``],
    [() => new Scheduler({ fallbacks: -1 }), 'invalid configuration: fallbacks must be a whole number from 0: `-1`'],
    [() => new Scheduler({ seed: 1.5 }), 'invalid configuration: seed must be a whole number from 0: `1.5`'],
    [() => new Scheduler({ load_gate_seconds: 'x' }), 'invalid configuration: load_gate_seconds must be a number: `x`'],
    [() => picker.addEndpoint({ name: 'a:1', labels: 5 }), 'invalid configuration: labels must be an object: `5`'],
    [() => picker.addEndpoint({ name: 5 }), 'invalid configuration: name must be a string: `5`'],
    [() => picker.observe('10.0.0.0:8000', { waitingRequests: 'a_b' }), 'invalid metrics: waitingRequests must be a number: `a_b`'],
    [() => picker.complete(1, { cachedTokens: 1.5 }), 'invalid request: outcome: cachedTokens must be a whole number from 0 to 4294967295: `1.5`'],
    [() => picker.complete(1, { success: null }), 'invalid request: outcome: success must be true or false: `null`'],
    [() => picker.applyKvEvent('10.0.0.0:8000', { type: 5 }), 'invalid KV event: type must be a string: `5`'],
    [() => picker.pick({ priority: 'x' }), 'invalid request: field `priority` must be a number: `string`'],
  ];
  for (const [call, message] of wrong) {
    assert.throws(call, (error) => {
      assert.equal(error.message, message);
      assert.equal(error instanceof TypeError, error.code === 'InvalidArg');
      return true;
    }, message);
  }
  assert.equal(picker.stats().counters.picks, 0);
});

test('every error has the code of the core', () => {
  const picker = scheduler();
  const throws = (code, message, call) => assert.throws(call, { name: 'Error', code, message });
  throws('InvalidConfig', /unknown preset `fastest`/, () => new Scheduler('fastest'));
  throws('InvalidConfig', /unknown field `fallback`/, () => new Scheduler({ fallback: 1 }));
  throws('InvalidConfig', /block_size_tokens must be 1 to 1024: `0`/, () => new Scheduler({ block_size_tokens: 0 }));
  throws('InvalidConfig', /the name of an endpoint/, () => picker.addEndpoint(''));
  throws('InvalidRequest', /invalid request: /, () => picker.pickBody(PATH, '{'));
  throws('InvalidRequest', /invalid request: /, () => picker.pickBody(PATH, '{', { explain: true }));
  throws('NoEndpoints', /add at least one/, () => new Scheduler().pickBody(PATH, BODY));
  throws('NoEligibleEndpoint', /subset-filter/, () => picker.pick({ subset: ['10.0.0.9:1'] }));
  throws('UnknownEndpoint', /`10.0.0.9:1`/, () => picker.removeEndpoint('10.0.0.9:1'));
  throws('UnknownRequest', /`7`/, () => picker.complete(7, { success: true }));
  throws('InvalidRequest', /id must be a whole number from 0 to 9007199254740991: `-1`$/, () => picker.firstToken(-1));
  throws('InvalidRequest', /outcome: unknown field `cached`, expected one of .*`cachedTokens`/, () => picker.complete(1, { cached: 1 }));
  throws('InvalidRequest', /a token id must be a whole number from 0 to 4294967295: `-1`/, () => picker.pick({ tokens: [1, -1] }));
  throws('InvalidRequest', /field `prompt` must be a string or a Uint8Array/, () => picker.pick({ prompt: 5 }));
  throws('InvalidRequest', /field `tokens` must be an array of numbers or a Uint32Array/, () => picker.pick({ tokens: 'abc' }));
  throws('InvalidMetrics', /invalid metrics: /, () => picker.ingestMetrics('10.0.0.0:8000', '<html>'));
  throws('InvalidMetrics', /unknown field `waiting`/, () => picker.observe('10.0.0.0:8000', { waiting: 1 }));
  throws('InvalidMetrics', /unknown variant `gone`/, () => picker.scrapeFailed('10.0.0.0:8000', 'gone'));
  throws('InvalidKvEvent', /block/, () => picker.applyKvEvent('10.0.0.0:8000', { type: 'stored', blockSize: 3, blockHashes: [1], tokenIds: [1, 2, 3] }));
  throws('InvalidKvEvent', /invalid KV event: /, () => KvEventBatch.decode(Buffer.from([1]), 0));
  throws('InvalidSnapshot', /invalid snapshot: /, () => picker.restore(Buffer.from('p3sched')));
});

test('arguments of other types are errors with a code, whatever they are', () => {
  const picker = scheduler();
  const wrong = [undefined, null, 1, 'x', true, {}, [], Symbol('s'), 10n, () => {}, new Date(), new ArrayBuffer(4), new Float64Array(2)];
  let refused = 0;
  const methods = Object.getOwnPropertyNames(Scheduler.prototype).filter((name) => !['constructor', 'config'].includes(name));
  for (const method of methods) {
    for (const first of wrong) {
      for (const second of wrong) {
        try {
          picker[method](first, second, first);
        } catch (error) {
          refused += 1;
          assert.doesNotMatch(error.message, /serde|rust|napi/i, method);
          assert.ok(error instanceof Error, `${method}: ${error}`);
          assert.ok(error instanceof TypeError || typeof error.code === 'string', `${method}: ${error}`);
        }
      }
    }
  }
  // Only what asks for nothing takes everything.
  assert.ok(refused > (methods.length - 4) * wrong.length ** 2 * 0.9, `${refused}`);
  scheduler().pickBody(PATH, BODY);
});

test('a panic is an error, and the process lives', () => {
  const native = require('../native.js');
  assert.throws(() => native.panic(), { code: 'GenericFailure', message: /a panic was asked for/ });
  assert.ok(scheduler().pickBody(PATH, BODY).id > 0);
});

test('worker threads have schedulers of their own', async () => {
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    const { Scheduler } = require(workerData);
    const scheduler = new Scheduler();
    scheduler.addEndpoint('10.0.0.1:8000');
    parentPort.postMessage(scheduler.pick({ model: 'm', prompt: 'Hi' }));`;
  const answers = await Promise.all([1, 2].map(() => new Promise((resolve, reject) => {
    new Worker(code, { eval: true, workerData: require.resolve('../index.js') }).once('message', resolve).once('error', reject);
  })));
  assert.deepEqual(answers.map(({ endpoint }) => endpoint), ['10.0.0.1:8000', '10.0.0.1:8000']);
});
