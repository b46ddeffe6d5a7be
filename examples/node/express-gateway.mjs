// A streaming gateway with Express: node express-gateway.mjs PORT ENGINE…

import { pipeline } from 'node:stream/promises';
import express from 'express';
import { Scheduler } from 'p3sched';
import { connect } from 'p3sched/middleware';
import { pollMetrics } from 'p3sched/poller';
import { forward } from './forward.mjs';

const [port, ...engines] = process.argv.slice(2);
const scheduler = new Scheduler({ fallbacks: 1 });
scheduler.setEndpoints(engines);
void pollMetrics(scheduler);

const app = express();
app.get('/stats', (request, response) => response.json(scheduler.stats()));
app.use(connect(scheduler));
app.use(async (request, response) => {
  const answer = await forward(request.p3sched, { method: request.method, url: request.originalUrl, headers: request.headers }, response);
  response.writeHead(answer.status, answer.headers);
  // Whoever breaks off, the client or the engine, the other one is let go.
  await pipeline(answer.body, response).catch(() => response.destroy());
});

const server = app.listen(Number(port), '127.0.0.1', () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
