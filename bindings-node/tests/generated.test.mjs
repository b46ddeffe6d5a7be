// What is generated from the Rust sources, and what the public files say of it.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import * as p3sched from '../index.js';

const folder = fileURLToPath(new URL('..', import.meta.url));
const read = (name) => readFileSync(join(folder, name), 'utf8');

test('the loader and its types are what the sources give', () => {
  const output = mkdtempSync(join(tmpdir(), 'p3sched-generated-'));
  try {
    execFileSync('npm', ['run', '--silent', 'build', '--', '--output-dir', output], { cwd: folder, stdio: 'pipe' });
    for (const name of ['native.js', 'native.d.ts']) {
      assert.equal(read(name), readFileSync(join(output, name), 'utf8'), `${name}: run \`npm run build\` and commit it`);
    }
  } finally {
    rmSync(output, { recursive: true });
  }
});

test('every exported function catches panics', () => {
  let functions = 0;
  for (const file of readdirSync(join(folder, 'src'))) {
    const exported = read(join('src', file)).matchAll(/#\[napi(\([^\]]*\))?\]\s*(#\[[^\]]*\]\s*)*pub fn (\w+)/g);
    for (const [, options, , name] of exported) {
      functions += 1;
      assert.match(options ?? '', /catch_unwind/, `${file}: ${name}`);
    }
  }
  assert.ok(functions > 30);
});

test('the types declare what there is', () => {
  const types = read('index.d.ts');
  const declared = [...types.matchAll(/^export (?:class|function|const) (\w+)/gm)].map(([, name]) => name);
  const exported = Object.keys(p3sched).filter((name) => !['default', 'module.exports'].includes(name));
  assert.deepEqual(declared.sort(), exported.sort());
  for (const name of ['Scheduler', 'UsageScanner', 'KvEventBatch']) {
    const body = types.slice(types.indexOf(`export class ${name} `)).split('\n}')[0];
    const members = new Set([...body.matchAll(/^  (?:static )?(?:get )?(\w+)\(/gm)].map(([, member]) => member));
    const own = [p3sched[name], p3sched[name].prototype].flatMap(Object.getOwnPropertyNames);
    const real = own.filter((member) => !['length', 'name', 'prototype', 'constructor', 'arguments', 'caller'].includes(member));
    members.delete('constructor');
    assert.deepEqual([...members].sort(), real.sort(), name);
  }
});

test('the version is that of the workspace', () => {
  const { version } = JSON.parse(read('package.json'));
  assert.equal(p3sched.version, version);
  assert.match(readFileSync(join(folder, '../Cargo.toml'), 'utf8'), new RegExp(`^version = "${version}"$`, 'm'));
});
