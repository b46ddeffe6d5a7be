// The session that every language plays, call by call.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { Scheduler } from '../index.js';

const lines = readFileSync(new URL('../../core/testdata/session.jsonl', import.meta.url), 'utf8').trimEnd().split('\n');

const renamed = (rename) => function walk(value) {
  if (Array.isArray(value)) return value.map(walk);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [rename(name), walk(field)]));
};
const camelCase = renamed((name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase()));

/** Carries out calls. */
class Player {
  play(call) {
    const { op, now } = call;
    const timing = { now };
    const argument = camelCase(call);
    switch (op) {
      case 'new': return void (this.scheduler = new Scheduler(call.config));
      case 'add_endpoint': return this.scheduler.addEndpoint(call.endpoint);
      case 'remove_endpoint': return this.scheduler.removeEndpoint(call.name);
      case 'set_endpoints': return this.scheduler.setEndpoints(call.endpoints);
      case 'ingest_metrics': return this.scheduler.ingestMetrics(call.endpoint, call.page, timing);
      case 'observe': return this.scheduler.observe(call.endpoint, argument.metrics, timing);
      case 'ingest_load_header': return this.scheduler.ingestLoadHeader(call.endpoint, call.value, timing);
      case 'scrape_failed': return this.scheduler.scrapeFailed(call.endpoint, call.failure, timing);
      case 'pick': return this.ask('pick', call.request, timing);
      case 'explain': return this.ask('explain', call.request, timing);
      case 'first_token': return this.scheduler.firstToken(call.id, timing);
      case 'complete': return this.scheduler.complete(call.id, argument.outcome, timing);
      case 'apply_kv_event': return this.scheduler.applyKvEvent(call.endpoint, argument.event, timing);
      case 'apply_kv_batch': return this.scheduler.applyKvBatch(call.endpoint, argument.batch, timing);
      case 'resume_kv_events': return this.scheduler.resumeKvEvents(call.endpoint, call.rank, call.next);
      case 'snapshot': return (this.saved = this.scheduler.snapshot()).length;
      case 'restore': return this.scheduler.restore(call.bytes === 'saved' ? this.saved : Buffer.from(call.bytes));
      case 'stats': return this.stats(timing);
      default: throw new Error(`unknown op: \`${op}\``);
    }
  }

  stats(timing) {
    const stats = this.scheduler.stats(timing);
    delete stats.index.bytes;
    return stats;
  }

  ask(method, { path, body, text, ...fields }, timing) {
    const options = camelCase(fields);
    const answer = path === undefined
      ? this.scheduler[method]({ ...options, ...(text !== undefined && { prompt: text }) }, timing)
      : this.scheduler[`${method}Body`](path, body, { ...options, ...timing });
    delete answer.explanationText;
    return answer;
  }
}

test('every call of the session has the result that it has in every language', () => {
  const player = new Player();
  lines.forEach((line, index) => {
    const { result, error, ...call } = JSON.parse(line);
    let outcome;
    try {
      outcome = { result: player.play(call) ?? null };
    } catch ({ code, message }) {
      outcome = { error: { code, message } };
    }
    const expected = error === undefined ? { result: camelCase(result) } : { error };
    assert.deepEqual(outcome, expected, `line ${index + 1}: ${line}`);
  });
  assert.ok(lines.length > 900);
});

test('a body without options is picked for as one with options', () => {
  const native = createRequire(import.meta.url)('../native.js');
  const schedulers = [0, 1].map(() => new native.Scheduler({ fallbacks: 1 }));
  const endpoints = Array.from({ length: 4 }, (_, n) => `10.0.0.${n}:8000`);
  schedulers.forEach((scheduler) => scheduler.setEndpoints(endpoints));
  const [plain, withOptions] = schedulers;
  const pickBody = plain.bodyPicker();
  const numbers = new Float64Array(3);
  let warm = 0;
  for (let call = 0; call < 400; call += 1) {
    const now = call * 5e7;
    const prompt = `conversation ${(call * call) % 23} `.repeat(60) + call;
    const body = Buffer.from(JSON.stringify({ model: 'llama', prompt }));
    const names = pickBody('/v1/completions', body, numbers, now);
    const answer = [names, ...numbers];
    assert.deepEqual(answer, withOptions.pickBodyWith('/v1/completions', body, {}, now).slice(0, 4), `call ${call}`);
    if (call % 3 > 0) schedulers.forEach((scheduler) => scheduler.complete(numbers[0], { success: true }, now + 1e7));
    warm += Number(numbers[1] > 0);
  }
  assert.ok(warm > 300);
  assert.deepEqual(plain.stats(3e10), withOptions.stats(3e10));
});
