// A gateway in TypeScript, compiled with `--strict` from here and from an empty project.

import http from 'node:http';
import { Scheduler, UsageScanner, type Decision, type ErrorCode, type SchedulerConfig } from '../../index.js';
import { connect } from '../../middleware.js';
import { pollMetrics } from '../../poller.js';

const config: SchedulerConfig = { preset: 'latency', fallbacks: 1, scorers: [{ type: 'queue-scorer' }] };
const scheduler = new Scheduler(config);
scheduler.setEndpoints(['10.0.0.1:8000', { name: '10.0.0.2:8000', labels: { zone: 'a' } }]);
void pollMetrics(scheduler, { signal: AbortSignal.timeout(1) });

const middleware = connect(scheduler, { fields: (request) => ({ session: request.headers['x-session'] }) });
http.createServer((request, response) => middleware(request, response, (error) => {
  if (error) return response.destroy();
  const endpoint: string | undefined = request.p3sched?.endpoint;
  return response.end(endpoint);
}));

function route(body: Uint8Array): Decision {
  try {
    return scheduler.pickBody('/v1/chat/completions', body, { explain: true });
  } catch (error) {
    const { code } = error as Error & { code: ErrorCode };
    if (code === 'InvalidRequest') return scheduler.pick({ model: 'm', tokens: [1, 2] }, { now: 1 });
    throw error;
  }
}

const { id } = route(Buffer.from('{}'));
scheduler.complete(id, { success: true, ...new UsageScanner().finish() });
