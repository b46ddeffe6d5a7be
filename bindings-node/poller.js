'use strict';

/** Keeps a scheduler fed with the metrics of its endpoints; see `poller.d.ts`. */

const { setTimeout: sleep } = require('node:timers/promises');

/** The largest page that is read; real ones are under 100 kB. */
const MAX_PAGE_BYTES = 8 * 1024 * 1024;

const NEVER = new AbortController().signal;

async function pollMetrics(scheduler, options = {}) {
  const { signal = NEVER, intervalMs = 200 } = options;
  const polled = new Map();
  while (!signal.aborted) {
    const names = scheduler.stats().endpoints.map(({ endpoint }) => endpoint);
    forget(polled, names);
    for (const name of names) {
      if (!polled.has(name)) polled.set(name, { due: 0, failures: 0, busy: false });
      const state = polled.get(name);
      // Not awaited: an endpoint that is slow to answer holds up no other.
      if (!state.busy && state.due <= Date.now()) void poll(scheduler, name, state, options);
    }
    await sleep(intervalMs, undefined, { signal, ref: false }).catch(() => {});
  }
}

function forget(polled, names) {
  const known = new Set(names);
  for (const name of polled.keys()) {
    if (!known.has(name)) polled.delete(name);
  }
}

async function poll(scheduler, name, state, options) {
  const { signal = NEVER, intervalMs = 200, maxIntervalMs = 2000, onError = () => {} } = options;
  state.busy = true;
  try {
    scheduler.ingestMetrics(name, await fetchPage(name, options));
    state.failures = 0;
  } catch (error) {
    if (signal.aborted || error.code === 'UnknownEndpoint') return;
    state.failures += 1;
    noteFailure(scheduler, name, error);
    void tell(onError, name, error);
  } finally {
    state.busy = false;
    // The loop's own period is the one of an endpoint that answers.
    const delay = state.failures > 0 ? Math.min(intervalMs * 2 ** state.failures, maxIntervalMs) : 0;
    state.due = Date.now() + delay;
  }
}

/** An error of the listener is no reason for the polling, or the process, to end. */
async function tell(onError, name, error) {
  try {
    await onError(name, error);
  } catch (thrown) {
    process.emitWarning(`onError of pollMetrics has thrown: ${thrown}`);
  }
}

async function fetchPage(name, options) {
  const { signal = NEVER, timeoutMs = 2000, scheme = 'http', path = '/metrics', dispatcher } = options;
  const url = options.url?.(name) ?? `${scheme}://${name}${path}`;
  const response = await (options.fetch ?? fetch)(url, {
    signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    ...(dispatcher && { dispatcher }),
  });
  if (!response.ok) {
    await response.body?.cancel();
    throw Object.assign(new Error(`unexpected status: \`${response.status}\``), { code: 'InvalidMetrics' });
  }
  return read(response);
}

async function read(response) {
  const chunks = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.length;
    if (size > MAX_PAGE_BYTES) {
      const message = `a page must have bytes at most: \`${MAX_PAGE_BYTES}\``;
      throw Object.assign(new Error(message), { code: 'InvalidMetrics' });
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

/** An engine that answers with something else than metrics is alive; one that refuses the connection is not. */
function noteFailure(scheduler, name, error) {
  if (error.code === 'InvalidMetrics') return;
  const failure = error.cause?.code === 'ECONNREFUSED' ? 'unreachable' : 'failed';
  try {
    scheduler.scrapeFailed(name, failure);
  } catch (gone) {
    // The endpoint was removed while it was asked.
    if (gone.code !== 'UnknownEndpoint') throw gone;
  }
}

module.exports.pollMetrics = pollMetrics;
