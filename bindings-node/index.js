'use strict';

/**
 * The public face of the package: options objects and decisions as plain objects over the private native module.
 *
 * Nothing is decided here. What every method does is described in `index.d.ts`.
 */

const { isUint8Array } = require('node:util').types;
const native = require('./native.js');

const ID = 0;
const MATCHED_TOKENS = 1;
const PROMPT_TOKENS = 2;

class Scheduler {
  #native;
  #pickBody;
  /** Where the native side writes the numbers of a decision. */
  #numbers = new Float64Array(3);

  constructor(config) {
    this.#native = new native.Scheduler(config);
    this.#pickBody = this.#native.bodyPicker();
  }

  get config() {
    return this.#native.config();
  }

  addEndpoint(endpoint) {
    this.#native.addEndpoint(endpoint);
  }

  removeEndpoint(name) {
    this.#native.removeEndpoint(name);
  }

  setEndpoints(endpoints) {
    // A text would be taken for its letters, and what cannot be iterated for no endpoints at all.
    if (typeof endpoints === 'string' || typeof endpoints?.[Symbol.iterator] !== 'function') {
      throw wrongType('endpoints must be a list of names or objects', endpoints);
    }
    this.#native.setEndpoints(Array.from(endpoints));
  }

  ingestMetrics(endpoint, page, options) {
    this.#native.ingestMetrics(endpoint, bytes(page), options?.now);
  }

  observe(endpoint, metrics, options) {
    this.#native.observe(endpoint, metrics, options?.now);
  }

  ingestLoadHeader(endpoint, value, options) {
    this.#native.ingestLoadHeader(endpoint, value, options?.now);
  }

  scrapeFailed(endpoint, failure, options) {
    this.#native.scrapeFailed(endpoint, failure, options?.now);
  }

  pick(request, options) {
    return explained(this.#native.pick(request, options?.now));
  }

  pickBody(path, body, options) {
    if (options !== undefined && options !== null) {
      const { now, ...fields } = options;
      return explained(this.#native.pickBodyWith(path, bytes(body), fields, now));
    }
    const numbers = this.#numbers;
    const endpoints = this.#pickBody(path, bytes(body), numbers);
    return decision(endpoints, numbers[ID], numbers[MATCHED_TOKENS], numbers[PROMPT_TOKENS]);
  }

  explain(request, options) {
    return explained(this.#native.explain(request, options?.now));
  }

  explainBody(path, body, options) {
    const { now, ...fields } = options ?? {};
    return explained(this.#native.explainBody(path, bytes(body), fields, now));
  }

  firstToken(id, options) {
    this.#native.firstToken(id, options?.now);
  }

  complete(id, outcome, options) {
    this.#native.complete(id, outcome, options?.now);
  }

  applyKvEvent(endpoint, event, options) {
    this.#native.applyKvEvent(endpoint, event, options?.now);
  }

  applyKvBatch(endpoint, batch, options) {
    const known = batch instanceof native.KvEventBatch ? batch : new native.KvEventBatch(batch);
    return this.#native.applyKvBatch(endpoint, known, options?.now);
  }

  resumeKvEvents(endpoint, rank, next) {
    this.#native.resumeKvEvents(endpoint, rank, next);
  }

  snapshot() {
    return this.#native.snapshot();
  }

  restore(snapshot) {
    this.#native.restore(bytes(snapshot));
  }

  stats(options) {
    return this.#native.stats(options?.now);
  }
}

class UsageScanner {
  #native = new native.UsageScanner();

  push(chunk) {
    this.#native.push(bytes(chunk));
  }

  finish() {
    return this.#native.finish();
  }
}

function readBody(path, body) {
  return native.readBody(path, bytes(body));
}

function readMetrics(page) {
  return native.readMetrics(bytes(page));
}

function blockHashes(request, options) {
  return native.blockHashes(request, options.blockSizeTokens, options.bytesPerToken, options.maxPrefixTokens);
}

function bytes(data) {
  if (typeof data === 'string') return Buffer.from(data);
  if (isUint8Array(data)) return data;
  throw wrongType('bytes must be a string, a Buffer or a Uint8Array', data);
}

function wrongType(message, value) {
  const found = Object.prototype.toString.call(value).slice('[object '.length, -1);
  return Object.assign(new TypeError(`${message}: \`${found}\``), { code: 'InvalidArg' });
}

function decision(endpoints, id, matchedTokens, promptTokens) {
  if (typeof endpoints === 'string') {
    return { id, endpoint: endpoints, fallbacks: [], matchedTokens, promptTokens };
  }
  return { id, endpoint: endpoints[0], fallbacks: endpoints.slice(1), matchedTokens, promptTokens };
}

function explained([endpoints, id, matchedTokens, promptTokens, explanation, explanationText]) {
  const answer = decision(endpoints, id, matchedTokens, promptTokens);
  // Absent, not undefined, where it was not asked for.
  return explanation ? { ...answer, explanation, explanationText } : answer;
}

module.exports.Scheduler = Scheduler;
module.exports.UsageScanner = UsageScanner;
module.exports.KvEventBatch = native.KvEventBatch;
module.exports.readBody = readBody;
module.exports.readMetrics = readMetrics;
module.exports.readLoadHeader = native.readLoadHeader;
module.exports.blockHashes = blockHashes;
module.exports.preset = native.preset;
module.exports.presetNames = native.presetNames;
module.exports.version = native.VERSION;
