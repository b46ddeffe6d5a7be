// A streaming gateway with Fastify: node fastify-gateway.mjs PORT ENGINE…

import Fastify from 'fastify';
import { Scheduler } from 'p3sched';
import { fastify as p3sched } from 'p3sched/middleware';
import { pollMetrics } from 'p3sched/poller';
import { forward } from './forward.mjs';

const [port, ...engines] = process.argv.slice(2);
const scheduler = new Scheduler({ fallbacks: 1 });
scheduler.setEndpoints(engines);
void pollMetrics(scheduler);

const app = Fastify();
app.get('/stats', () => scheduler.stats());
app.register(async (gateway) => {
  await gateway.register(p3sched, { scheduler });
  gateway.all('/v1/*', async (request, reply) => {
    const answer = await forward(request.p3sched, request, reply.raw);
    return reply.code(answer.status).headers(answer.headers).send(answer.body);
  });
});

console.log(`listening on ${await app.listen({ port: Number(port), host: '127.0.0.1' })}`);
