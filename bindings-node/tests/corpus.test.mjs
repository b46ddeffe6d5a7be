// The corpus that every language runs.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { KvEventBatch, Scheduler, UsageScanner, blockHashes, preset, presetNames, readBody, readMetrics } from '../index.js';

const testdata = new URL('../../core/testdata/', import.meta.url);
const text = (name) => readFileSync(new URL(name, testdata), 'utf8');
const json = (name) => JSON.parse(text(name));

/** The fields of a metrics page as the corpus has them: what is absent is `null` or empty. */
function metrics(fields) {
  const known = readMetrics('vllm:num_requests_waiting 0\n');
  const absent = Object.fromEntries(Object.keys(known).map((name) => [name, /^(running|waiting)Adapters$/.test(name) ? [] : null]));
  const camel = Object.entries(fields).map(([name, value]) => [name.replace(/_(.)/g, (_, l) => l.toUpperCase()), value]);
  return { ...absent, ...Object.fromEntries(camel) };
}

test('bodies', () => {
  const cases = json('bodies.json');
  assert.ok(cases.length > 50);
  for (const { name, path, body, body_hex, error, ...expected } of cases) {
    const bytes = body_hex === undefined ? body : Buffer.from(body_hex, 'hex');
    if (error !== undefined) {
      const invalid = { code: 'InvalidRequest', message: `invalid request: ${error}` };
      assert.throws(() => readBody(path, bytes), invalid, name);
      assert.throws(() => new Scheduler().pickBody(path, bytes), invalid, name);
      continue;
    }
    const read = readBody(path, bytes);
    assert.equal(read.model, expected.model ?? '', name);
    assert.equal(read.prompt?.toString('hex') ?? '', expected.prompt_tokens ? '' : (expected.prompt_hex ?? ''), name);
    assert.deepEqual(read.tokens && [...read.tokens], expected.prompt_tokens, name);
    assert.equal(read.cacheSalt, expected.cache_salt, name);
    assert.equal(read.session, expected.session, name);
    assert.equal(read.stream, expected.stream ?? false, name);
  }
});

test('block hashes', () => {
  const cases = json('block_hashes.json');
  assert.ok(cases.length > 10);
  for (const vector of cases) {
    const request = {
      model: vector.model,
      adapter: vector.adapter ?? undefined,
      cacheSalt: vector.cache_salt ?? undefined,
      ...(vector.prompt_tokens ? { tokens: vector.prompt_tokens } : { prompt: Buffer.from(vector.prompt_hex, 'hex') }),
    };
    const sizes = { blockSizeTokens: vector.block_tokens, bytesPerToken: vector.bytes_per_token, maxPrefixTokens: vector.max_prefix_tokens };
    const hashes = [...blockHashes(request, sizes)].map((hash) => hash.toString(16).padStart(16, '0'));
    assert.deepEqual(hashes, vector.hashes, vector.name);
    if (request.tokens) {
      const typed = { ...request, tokens: Uint32Array.from(request.tokens) };
      assert.deepEqual(blockHashes(typed, sizes), blockHashes(request, sizes));
    }
  }
});

test('metrics pages', () => {
  const captures = json('metrics/expected.json');
  assert.ok(Object.keys(captures).length >= 10);
  for (const [name, expected] of Object.entries(captures)) {
    assert.deepEqual(readMetrics(text(`metrics/${name}`)), metrics(expected), name);
  }
  for (const { name, page, metrics: expected, error } of json('metrics/pages.json')) {
    if (error === undefined) {
      assert.deepEqual(readMetrics(Buffer.from(page)), metrics(expected), name);
    } else {
      assert.throws(() => readMetrics(page), { code: 'InvalidMetrics', message: `invalid metrics: ${error}` }, name);
    }
  }
});

test('usage of answers, however they are cut', () => {
  const captured = readdirSync(new URL('sse/', testdata)).map((name) => {
    return { name, body: text(`sse/${name}`), prompt_tokens: 13, completion_tokens: 3, cached_tokens: 0 };
  });
  for (const answer of [...captured, ...json('usage/answers.json')]) {
    const bytes = Buffer.from(answer.body);
    for (const size of [1, 7, bytes.length]) {
      const scanner = new UsageScanner();
      for (let at = 0; at < bytes.length; at += size) scanner.push(bytes.subarray(at, at + size));
      const { promptTokens = null, completionTokens = null, cachedTokens = null } = scanner.finish();
      const expected = [answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens].map((value) => value ?? null);
      assert.deepEqual([promptTokens, completionTokens, cachedTokens], expected, `${answer.name}, chunks of ${size}`);
    }
  }
});

test('presets', () => {
  assert.ok(presetNames().length > 10);
  for (const name of presetNames()) {
    assert.deepEqual(new Scheduler(name).config, preset(name), name);
    assert.deepEqual(new Scheduler(preset(name)).config, preset(name), name);
  }
});

test('payloads of KV events', () => {
  for (const file of readdirSync(new URL('kv-events/', testdata))) {
    const lines = text(`kv-events/${file}`).split('\n').filter((line) => /^[0-9a-f]* [0-9a-f]{16} /.test(line));
    assert.ok(lines.length > 0, file);
    const scheduler = new Scheduler({ kv_events: { model: 'm' } });
    scheduler.addEndpoint('10.0.0.1:8000');
    for (const line of lines) {
      const [, number, payload] = line.split(' ');
      const sequence = Number.parseInt(number, 16);
      const batch = KvEventBatch.decode(Buffer.from(payload, 'hex'), sequence);
      assert.equal(batch.sequence, sequence);
      // What is looked at can be given back.
      const { timestamp, rank, events } = batch;
      const copy = new KvEventBatch({ sequence: batch.sequence, timestamp, rank, events });
      assert.deepEqual(copy.events, events);
      // A capture need not begin with the engine's first batch.
      if (scheduler.applyKvBatch('10.0.0.1:8000', copy).type === 'gap') {
        scheduler.resumeKvEvents('10.0.0.1:8000', rank, sequence);
        assert.deepEqual(scheduler.applyKvBatch('10.0.0.1:8000', batch), { type: 'applied' });
      }
    }
    assert.ok(scheduler.stats().counters.kvEvents + scheduler.stats().counters.skippedKvEvents > 0, file);
  }
});
