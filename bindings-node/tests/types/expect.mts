import { expectTypeOf } from 'expect-type';
import { KvEventBatch, Scheduler, blockHashes, readBody, version } from '../../index.js';
import type { Decision, ExplainedDecision, Explanation, KvBatchOutcome, Outcome, SchedulerConfig, Stats } from '../../index.js';
import type { Route } from '../../middleware.js';
import { pollMetrics } from '../../poller.js';

declare const scheduler: Scheduler;

expectTypeOf(Scheduler).toBeConstructibleWith('latency');
expectTypeOf(Scheduler).toBeConstructibleWith({ load_gate_seconds: null });
expectTypeOf(scheduler.config).toEqualTypeOf<Required<SchedulerConfig>>();
expectTypeOf(scheduler.pickBody('', '')).toEqualTypeOf<Decision>();
expectTypeOf(scheduler.pickBody('', '', { session: 'a', now: 1 })).toEqualTypeOf<Decision>();
expectTypeOf(scheduler.pickBody('', '', { explain: true })).toEqualTypeOf<ExplainedDecision>();
expectTypeOf(scheduler.explain({ prompt: '' }).explanation).toEqualTypeOf<Explanation>();
expectTypeOf<Decision['explanation']>().toEqualTypeOf<Explanation | undefined>();
expectTypeOf(scheduler.complete).parameter(1).toEqualTypeOf<Outcome>();
expectTypeOf<Outcome>().toHaveProperty('success').toEqualTypeOf<boolean>();
expectTypeOf(scheduler.snapshot()).toEqualTypeOf<Buffer>();
expectTypeOf(scheduler.stats()).toEqualTypeOf<Stats>();
expectTypeOf(scheduler.applyKvBatch('', KvEventBatch.decode(new Uint8Array(), 0))).toEqualTypeOf<KvBatchOutcome>();
expectTypeOf(readBody('', '').tokens).toEqualTypeOf<Uint32Array | undefined>();
expectTypeOf(blockHashes({}, { blockSizeTokens: 16, bytesPerToken: 4 })).toEqualTypeOf<BigUint64Array>();
expectTypeOf(version).toBeString();
expectTypeOf<Route['body']>().toEqualTypeOf<Buffer>();
expectTypeOf(pollMetrics).returns.resolves.toBeVoid();

// @ts-expect-error an outcome says whether the request was answered
scheduler.complete(1, {});
// @ts-expect-error the names are in camel case
scheduler.pick({ cache_salt: 'x' });
// @ts-expect-error the names of a configuration are those of every language
new Scheduler({ loadGateSeconds: 1 });
