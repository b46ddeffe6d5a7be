// The package as its user gets it: packed, installed in an empty project, used from both kinds of modules and from TypeScript.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('..', import.meta.url));
let project;

const run = (command, ...rest) => execFileSync(command, rest, { cwd: project, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const file = (name, text) => writeFileSync(join(project, name), text);

before(() => {
  project = mkdtempSync(join(tmpdir(), 'p3sched-package-'));
  file('package.json', '{"name": "empty", "private": true}');
  const packed = execFileSync('npm', ['pack', '--json', '--pack-destination', project], { cwd: folder, encoding: 'utf8' });
  run('npm', 'install', '--offline', '--no-audit', '--no-fund', `./${JSON.parse(packed)[0].filename}`);
});

after(() => rmSync(project, { recursive: true }));

const USE = `
const scheduler = new Scheduler('latency');
scheduler.addEndpoint('10.0.0.1:8000');
const { id, endpoint } = scheduler.pickBody('/v1/completions', '{"model": "m", "prompt": "Hi"}');
scheduler.complete(id, { success: true });
console.log(endpoint, typeof connect, typeof fastify, typeof pollMetrics);
`;

test('as an ECMAScript module', () => {
  file('use.mjs', `import { Scheduler } from 'p3sched';
import { connect, fastify } from 'p3sched/middleware';
import { pollMetrics } from 'p3sched/poller';${USE}`);
  assert.equal(run('node', 'use.mjs'), '10.0.0.1:8000 function function function\n');
});

test('as a CommonJS module', () => {
  file('use.cjs', `const { Scheduler } = require('p3sched');
const { connect, fastify } = require('p3sched/middleware');
const { pollMetrics } = require('p3sched/poller');${USE}`);
  assert.equal(run('node', 'use.cjs'), '10.0.0.1:8000 function function function\n');
});

test('from TypeScript', () => {
  file('use.mts', readFileSync(join(folder, 'tests/types/use.mts'), 'utf8').replaceAll(/'\.\.\/\.\.\/(\w+)\.js'/g, (_, name) => {
    return name === 'index' ? "'p3sched'" : `'p3sched/${name}'`;
  }));
  const tsc = join(folder, 'node_modules/typescript/bin/tsc');
  const types = join(folder, 'node_modules/@types');
  const options = ['--strict', '--noEmit', '--module', 'nodenext', '--target', 'es2022', '--typeRoots', types, '--types', 'node'];
  run('node', tsc, ...options, 'use.mts');
});
