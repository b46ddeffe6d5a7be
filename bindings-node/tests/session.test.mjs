// The session that every language plays, call by call.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
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
