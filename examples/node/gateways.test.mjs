// Both gateways between the `openai` client and two simulated engines.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';

const SIMULATOR = process.env.ENGINE_SIMULATOR ?? fileURLToPath(new URL('../../target/debug/engine-simulator', import.meta.url));
const DEAD = '127.0.0.1:9';
const running = [];

/** Starts a program and waits until it says where it listens. */
async function start(program, args, stream) {
  const child = spawn(program, args, { cwd: fileURLToPath(new URL('.', import.meta.url)), stdio: ['ignore', 'pipe', 'pipe'] });
  running.push(child);
  let said = '';
  child[stream].on('data', (text) => { said += text; });
  child.once('exit', (code) => { said += `exit ${code}`; });
  while (!/listen\w* on http\S+\n/.test(said)) {
    assert.ok(!said.includes('exit '), `${program}: ${said}`);
    await sleep(10);
  }
  return /http:\/\/(\S+)/.exec(said)[1];
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return String(port);
}

let engines;
before(async () => {
  engines = await Promise.all([1, 2].map(async () => start(SIMULATOR, ['--speed', '20', '--port', await freePort()], 'stderr')));
});
after(() => running.forEach((child) => child.kill()));

const conversation = (topic, question) => ({
  model: 'simulated',
  max_tokens: 12,
  messages: [
    { role: 'system', content: `You know all about ${topic}. `.repeat(60) },
    { role: 'user', content: question },
  ],
});

for (const gateway of ['express-gateway.mjs', 'fastify-gateway.mjs']) {
  describe(gateway, () => {
    let url;
    let client;
    const stats = async () => (await fetch(`http://${url}/stats`)).json();
    const settled = async () => {
      for (;;) {
        const now = await stats();
        if (now.requestsInFlight === 0) return now;
        await sleep(10);
      }
    };

    before(async () => {
      url = await start(process.execPath, [gateway, '0', ...engines], 'stdout');
      client = new OpenAI({ baseURL: `http://${url}/v1`, apiKey: 'none', maxRetries: 0 });
    });

    test('an answer comes through, with its usage reported', async () => {
      const answer = await client.chat.completions.create(conversation(`rain ${gateway}`, 'Why?'));
      assert.ok(answer.choices[0].message.content.length > 0);
      const { counters } = await settled();
      assert.deepEqual([counters.completedRequests, counters.failedRequests], [1, 0]);
    });

    test('the same prefix goes to the same engine, which finds it', async () => {
      const ids = new Set();
      for (const question of ['When?', 'Where?', 'Who?']) {
        const { data, response } = await client.chat.completions.create(conversation(`snow ${gateway}`, question)).withResponse();
        ids.add(response.headers.get('x-engine-id'));
        assert.ok(data.usage.prompt_tokens > 0);
      }
      assert.equal(ids.size, 1);
      const { endpoints, counters } = await settled();
      assert.ok(counters.warmPicks >= 2);
      const found = endpoints.map(({ actualCachedTokens }) => actualCachedTokens).reduce((sum, tokens) => sum + tokens, 0);
      assert.ok(found > 0, 'the engine reported nothing cached');
    });

    test('different prefixes are spread', async () => {
      const topics = Array.from({ length: 12 }, (_, n) => `${n} ${gateway}`);
      const answers = await Promise.all(topics.map((topic) => {
        return client.chat.completions.create(conversation(topic, 'Why?')).withResponse();
      }));
      assert.equal(new Set(answers.map(({ response }) => response.headers.get('x-engine-id'))).size, 2);
    });

    test('a stream comes through chunk by chunk', async () => {
      const stream = await client.chat.completions.create({
        ...conversation(`hail ${gateway}`, 'Why?'), stream: true, stream_options: { include_usage: true },
      });
      const times = [];
      let usage;
      for await (const chunk of stream) {
        times.push(performance.now());
        usage = chunk.usage ?? usage;
      }
      assert.ok(times.length > 10 && times.at(-1) > times[0]);
      assert.equal(usage.completion_tokens, 12);
      await settled();
    });

    test('a client that leaves frees the engine', async () => {
      const stream = await client.chat.completions.create({ ...conversation(`fog ${gateway}`, 'Why?'), max_tokens: 2000, stream: true });
      for await (const chunk of stream) {
        assert.ok(chunk.id);
        break;
      }
      stream.controller.abort();
      const { counters } = await settled();
      assert.equal(counters.failedRequests, 1);
    });

    test('what the client did wrong is said to it', async () => {
      const response = await fetch(`http://${url}/v1/chat/completions`, { method: 'POST', body: '{', headers: { 'content-type': 'application/json' } });
      assert.equal(response.status, 400);
      assert.match(await response.text(), /invalid request/);
    });

    test('other paths are passed on', async () => {
      const models = await client.models.list();
      assert.equal(models.data[0].id, 'simulated');
    });

    test('an engine that is not there is not asked, or its fallback is', async () => {
      const gone = await start(process.execPath, [gateway, '0', engines[0], DEAD], 'stdout');
      for (let n = 0; n < 6; n += 1) {
        const body = JSON.stringify(conversation(`${n} wind ${gateway}`, 'Why?'));
        const headers = { 'content-type': 'application/json' };
        const response = await fetch(`http://${gone}/v1/chat/completions`, { method: 'POST', body, headers });
        assert.deepEqual([response.status, response.headers.get('x-engine-id')], [200, engines[0]]);
        await response.text();
      }
    });
  });
}
