// Times `pickBody`, driven by the benchmark that compares it with the Rust call.
//
// The argument is a file with a chat body. Each line of the input is a number of picks, each line of the output the nanoseconds
// that they took together. Only the picks are timed; their requests are completed in between.

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Scheduler } from '../index.js';

const BATCH = 64;

const body = readFileSync(process.argv[2]);
const scheduler = new Scheduler();
scheduler.setEndpoints(Array.from({ length: 8 }, (_, n) => `10.0.0.${n + 1}:8000`));

function pick(count) {
  const ids = new Array(BATCH);
  let nanoseconds = 0n;
  for (let left = count; left > 0; left -= BATCH) {
    const batch = Math.min(left, BATCH);
    const start = process.hrtime.bigint();
    for (let n = 0; n < batch; n += 1) ids[n] = scheduler.pickBody('/v1/chat/completions', body).id;
    nanoseconds += process.hrtime.bigint() - start;
    for (let n = 0; n < batch; n += 1) scheduler.complete(ids[n], { success: true });
  }
  return nanoseconds;
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(String(pick(Number(line))));
}
