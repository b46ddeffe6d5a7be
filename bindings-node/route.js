'use strict';

const { UsageScanner } = require('./index.js');

/** A request on its way: what was picked for it, and what is reported when it ends. */
class Route {
  #scheduler;
  #outcome = {};
  #done = false;

  constructor(scheduler, decision, body) {
    this.#scheduler = scheduler;
    this.decision = decision;
    this.body = body;
  }

  get endpoint() {
    return this.decision.endpoint;
  }

  report(outcome) {
    Object.assign(this.#outcome, outcome);
  }

  /** Reports what the response shows: the first chunk of a stream, the usage, the end, the client's leaving. */
  follow(response) {
    const usage = new UsageScanner();
    const { writeHead, write, end } = response;
    let contentType;
    let begun = false;
    const see = (chunk) => {
      if (typeof chunk !== 'string' && !(chunk instanceof Uint8Array)) return;
      // A plain answer comes when it is complete: its first byte says nothing about the first token.
      contentType ??= response.getHeader('content-type');
      const isStream = String(contentType).startsWith('text/event-stream');
      if (!begun && chunk.length > 0 && isStream) this.#scheduler.firstToken(this.decision.id);
      begun ||= chunk.length > 0;
      usage.push(chunk);
    };
    response.writeHead = function (status, ...rest) {
      // Headers that are given here are not among those that `getHeader` knows.
      contentType = contentTypeIn(rest.at(-1));
      return writeHead.call(this, status, ...rest);
    };
    response.write = function (chunk, ...rest) {
      see(chunk);
      return write.call(this, chunk, ...rest);
    };
    response.end = function (chunk, ...rest) {
      see(chunk);
      return end.call(this, chunk, ...rest);
    };
    const complete = () => {
      const success = response.writableFinished && response.statusCode >= 200 && response.statusCode < 400;
      this.#complete({ success, ...usage.finish() });
    };
    response.once('finish', complete);
    response.once('close', complete);
  }

  #complete(seen) {
    if (this.#done) return;
    this.#done = true;
    const { id } = this.decision;
    try {
      this.#scheduler.complete(id, { ...seen, ...this.#outcome });
    } catch (error) {
      // Whoever reported it is not there any more to catch it: the process shall not end for that.
      process.emitWarning(`what was reported of a request cannot be used, ${error.message}`, { code: error.code });
      this.#scheduler.complete(id, seen);
    }
  }
}

function contentTypeIn(headers) {
  if (headers === null || typeof headers !== 'object') return undefined;
  const flat = Array.isArray(headers) ? headers.flat() : Object.entries(headers).flat();
  const name = flat.findIndex((item, index) => index % 2 === 0 && String(item).toLowerCase() === 'content-type');
  return name < 0 ? undefined : flat[name + 1];
}

module.exports.Route = Route;
