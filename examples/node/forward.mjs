// What both gateways share: sends a request to the picked engine and streams the answer back.

import { Readable } from 'node:stream';

/** Headers that belong to one connection, or that `fetch` has undone or sets itself. */
const OWN = new Set(['connection', 'content-encoding', 'content-length', 'host', 'keep-alive', 'transfer-encoding']);

const passedOn = (headers) => Object.fromEntries([...headers].filter(([name]) => !OWN.has(name)));

/** Asks the chosen engine, then the fallbacks in their order; one that cannot be reached has served nothing. */
async function ask(route, url, options) {
  const { endpoint, fallbacks } = route.decision;
  for (const candidate of [endpoint, ...fallbacks]) {
    try {
      const answer = await fetch(`http://${candidate}${url}`, options);
      route.report({ servedBy: candidate });
      return answer;
    } catch (error) {
      if (options.signal.aborted) throw error;
    }
  }
  return Response.json({ error: { message: 'no engine answers', type: 'server_error' } }, { status: 502 });
}

/** The answer to a request that was picked for, as what `respond` needs. */
export async function forward(route, { method, url, headers }, response) {
  const left = new AbortController();
  response.once('close', () => left.abort());
  const answer = await ask(route, url, {
    method,
    headers: passedOn(Object.entries(headers)),
    body: route.body.length > 0 ? route.body : undefined,
    signal: left.signal,
  });
  const body = answer.body === null ? Readable.from([]) : Readable.fromWeb(answer.body);
  return { status: answer.status, headers: passedOn(answer.headers), body };
}
