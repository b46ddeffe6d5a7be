// The quickstart of the README, as it stands there.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

test('the quickstart runs', () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const [, quickstart] = /## Quickstart\n\n```js\n([^]*?)```/.exec(readme);
  assert.ok(quickstart.split('\n').length <= 21);
  // A package may import itself by its name.
  const options = { cwd: new URL('..', import.meta.url), input: quickstart, encoding: 'utf8' };
  const output = execFileSync(process.execPath, ['--input-type=module', '-'], options);
  assert.match(output, /^true true\nendpoint +total/);
});
