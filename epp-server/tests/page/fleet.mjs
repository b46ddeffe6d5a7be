// What the page looks at: simulated engines, a real Envoy and the debug build of epp-server, on free ports.

import { spawn } from 'node:child_process';
import { mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import nunjucks from 'nunjucks';

const ROOT = join(import.meta.dirname, '../../..');
const PROGRAMS = resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target', 'debug');
const MODEL = 'tiny';

const DISAGGREGATED = `
kind: EndpointPickerConfig
apiVersion: llm-d.ai/v1alpha1
plugins:
- type: always-disagg-pd-decider
- {type: disagg-profile-handler, parameters: {deciders: {prefill: always-disagg-pd-decider}}}
- type: decode-filter
- type: prefill-filter
- type: queue-scorer
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: queue-scorer}]}
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer}]}
`;

export const OUTPUT = join(ROOT, 'target/page');

export class Fleet {
  #children = [];

  static async start(engines) {
    mkdirSync(OUTPUT, { recursive: true });
    const fleet = new Fleet();
    fleet.engines = await freePorts(engines);
    [fleet.grpc, fleet.health, fleet.admin, fleet.gateway, fleet.gatewayAdmin] = await freePorts(5);
    for (const port of fleet.engines) {
      fleet.run(program('engine-simulator'), ['--port', port, '--model', MODEL, '--speed', '4']);
    }
    fleet.startPicker();
    fleet.startGateway();
    await Promise.all([...fleet.engines.map((port) => `${port}/health`), `${fleet.admin}/healthz`, `${fleet.gatewayAdmin}/ready`].map(answers));
    return fleet;
  }

  get url() {
    return `http://127.0.0.1:${this.admin}/`;
  }

  startPicker(source = ['--endpoints', this.engines.map((port) => `127.0.0.1:${port}`).join(',')]) {
    this.picker = this.run(program('epp-server'), [
      '--bind-address=127.0.0.1', '--grpc-port', this.grpc, '--grpc-health-port', this.health,
      '--metrics-port', this.admin, '--secure-serving=false', ...source,
    ]);
  }

  // Arguments of a picker that has the first engine decode and the others do prefill.
  disaggregated() {
    const role = (at) => (at === 0 ? 'decode' : 'prefill');
    const lines = this.engines.map((port, at) => `- {name: '127.0.0.1:${port}', labels: {llm-d.ai/role: ${role(at)}}}\n`);
    const file = join(OUTPUT, 'endpoints.yaml');
    writeFileSync(file, `endpoints:\n${lines.join('')}`);
    return ['--endpoints-file', file, '--config-text', DISAGGREGATED];
  }

  async stopPicker() {
    const ended = new Promise((resolve) => this.picker.once('exit', resolve));
    this.picker.kill('SIGKILL');
    await ended;
  }

  startGateway() {
    const host = (port) => ({ host: '127.0.0.1', port });
    const template = readFileSync(join(ROOT, 'examples/envoy/full-duplex-override-host.yaml'), 'utf8');
    const config = new nunjucks.Environment(null, { autoescape: false }).renderString(template, {
      listen_port: this.gateway, admin_port: this.gatewayAdmin, picker: host(this.grpc),
      endpoints: this.engines.map(host), pick_source: 'metadata', failure_mode_allow: 'false', retries: 0, message_timeout: 5,
    });
    writeFileSync(join(OUTPUT, 'envoy.yaml'), config);
    this.run(join(ROOT, '.venv-envoy/bin/envoy'), [
      '--concurrency', '1', '--disable-hot-restart', '--log-level', 'warning', '--config-path', join(OUTPUT, 'envoy.yaml'),
    ]);
  }

  // Conversations that share prefixes, until `signal` says stop.
  async talk(signal) {
    for (let turn = 0; !signal.aborted; turn += 1) {
      const requests = [0, 1, 2].map((offset) => this.chat(prompt((turn + offset) % 7, turn)));
      await Promise.all(requests);
    }
  }

  async chat(content) {
    const answer = await fetch(`http://127.0.0.1:${this.gateway}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: MODEL, max_tokens: 8, stream: true, stream_options: { include_usage: true }, messages: [{ role: 'user', content }] }),
    });
    await answer.text();
    return answer.status;
  }

  run(command, args) {
    const log = openSync(join(OUTPUT, `${command.split('/').at(-1)}.log`), 'a');
    const child = spawn(command, args.map(String), { stdio: ['ignore', log, log] });
    this.#children.push(child);
    return child;
  }

  stop() {
    for (const child of this.#children) child.kill('SIGKILL');
  }
}

function program(name) {
  return join(PROGRAMS, name);
}

function prompt(topic, turn) {
  const shared = `Topic ${topic}: ${'the rain in the mountains feeds the river below. '.repeat(10 + 12 * topic)}`;
  return `${shared} Question ${turn}?`;
}

async function freePorts(count) {
  const servers = await Promise.all(Array.from({ length: count }, () => new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(server));
  })));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

async function answers(place) {
  for (let attempt = 0; attempt < 300; attempt += 1) {
    const answer = await fetch(`http://127.0.0.1:${place}`).catch(() => null);
    if (answer?.ok) return;
    await sleep(100);
  }
  throw new Error(`no answer within 30 s: \`${place}\``);
}
