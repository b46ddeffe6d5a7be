/**
 * Picks the replica that should serve an LLM request: the one that already holds the longest prefix of the prompt in its KV
 * cache, unless its queue or its memory makes another one faster.
 *
 * Everything is synchronous and takes microseconds. Every error is an `Error` whose `code` is one of {@link ErrorCode}; the
 * operation has then changed nothing.
 */

/** What `error.code` says; the same in every language. */
export type ErrorCode =
  | 'InvalidConfig'
  | 'InvalidRequest'
  | 'NoEndpoints'
  | 'NoEligibleEndpoint'
  | 'UnknownEndpoint'
  | 'UnknownRequest'
  | 'InvalidMetrics'
  | 'InvalidKvEvent'
  | 'InvalidSnapshot';

/** The time of a call. */
export interface Timing {
  /** Whole nanoseconds from any fixed origin, for simulators and tests; a monotonic clock by default. */
  now?: number;
}

/** A plugin of a profile. */
export interface PluginConfig {
  /** Type name, for example `queue-scorer`. */
  type: string;
  /** Parameters of the type, by name. */
  parameters?: Record<string, number>;
}

/** A scorer of a profile. */
export interface ScorerConfig extends PluginConfig {
  /** What its score is multiplied by; 1 by default. */
  weight?: number;
}

/**
 * Everything that can be set about a scheduler: the same fields as in the YAML or JSON of every other language. Unknown fields
 * are errors.
 */
export interface SchedulerConfig {
  /** The preset that sets what the configuration does not. */
  preset?: string;
  /** The filters, in the order in which they run. */
  filters?: PluginConfig[];
  /** The scorers and their weights. */
  scorers?: ScorerConfig[];
  /** How one of the scored endpoints is chosen. */
  picker?: PluginConfig;
  /** How many further endpoints a decision names. */
  fallbacks?: number;
  /** Seconds that a predicted wait may be longer than the shortest one; `null` switches the gate off. */
  load_gate_seconds?: number | null;
  /** Where chance decides, the same seed makes the same choices. */
  seed?: number;
  /** Tokens per block of the prefix index. */
  block_size_tokens?: number;
  /** Bytes of prompt text that stand for one token. */
  bytes_per_token?: number;
  /** Tokens of the prompt's head that are looked up and remembered; `null` for all. */
  max_prefix_tokens?: number | null;
  /** Bound of the prefix index in bytes. */
  index_max_bytes?: number;
  /** KV cache of an endpoint in tokens, where the engine does not report it. */
  default_capacity_tokens?: number;
  /** Prefill rate of every endpoint in tokens per second; `null` to learn it. */
  prefill_tokens_per_second?: number | null;
  /** When scraped metrics stop to count. */
  metrics?: {
    /** Seconds up to which a scrape counts fully. */
    fresh_seconds?: number;
    /** Seconds after which a scrape counts nothing. */
    expire_seconds?: number;
    /** Failed scrapes in a row that an endpoint may be dead after … */
    dead_after_scrapes?: number;
    /** … and the seconds that must have passed since the first of them. */
    dead_after_seconds?: number;
  };
  /** When bookings that nobody ended expire. */
  bookings?: {
    /** Seconds after which a prefill is taken as done. */
    first_token_timeout_seconds?: number;
    /** Seconds after which a request is taken as completed. */
    request_timeout_seconds?: number;
  };
  /** What the KV events of engines are taken for. */
  kv_events?: {
    /** The model whose prompts the engines' blocks belong to. */
    model?: string;
    /** Seconds that the prefix of a pick counts as held before events have to confirm it. */
    confirm_within_seconds?: number;
  };
}

/** One replica of a model server. */
export interface Endpoint {
  /** Where it is reached, `host:port`; also its name. */
  name: string;
  /** Free labels, for filters that select by label. */
  labels?: Record<string, string>;
}

/** What a caller can set about a request whose body is read. */
export interface RequestFields {
  /** Name of the model. */
  model?: string;
  /** LoRA adapter, when it is known apart from the model name. */
  adapter?: string;
  /** Requests with different salts never share a prefix. */
  cacheSalt?: string;
  /** Key that ties the requests of one conversation or user together. */
  session?: string;
  /** Larger is more urgent; negative requests may be shed. */
  priority?: number;
  /** Names of the only endpoints that may serve this request. */
  subset?: string[];
  /** Whether the decision shall carry an explanation. */
  explain?: boolean;
}

/** One request to be routed; the prompt is either `prompt` or `tokens`. */
export interface Request extends RequestFields {
  /** Text, or the canonical bytes that {@link readBody} gives. */
  prompt?: string | Uint8Array;
  /** Token ids of the model's own tokenizer. */
  tokens?: Uint32Array | number[];
  /** Whether the client asked for a streamed answer. */
  stream?: boolean;
}

/** Which endpoint serves a request. */
export interface Decision {
  /** Name of this request for `firstToken` and `complete`; 0 if nothing was booked. */
  id: number;
  /** The chosen endpoint. */
  endpoint: string;
  /** Further endpoints to be tried in this order if the chosen one fails. */
  fallbacks: string[];
  /** Leading tokens of the prompt that the chosen endpoint is expected to hold. */
  matchedTokens: number;
  /** Tokens of the prompt; an estimate where the prompt is text. */
  promptTokens: number;
  /** Why this endpoint, if it was asked for. */
  explanation?: Explanation;
  /** The explanation as a table for a terminal. */
  explanationText?: string;
}

/** A decision that was asked for its reason. */
export interface ExplainedDecision extends Decision {
  explanation: Explanation;
  explanationText: string;
}

/** How every endpoint was rated for one request. */
export interface Explanation {
  /** Tokens of the prompt. */
  promptTokens: number;
  /** How a tie for the first place was broken. */
  tieRule: string;
  /** How far the best other endpoint is behind; `null` if no other one was eligible. */
  runnerUpDistance: number | null;
  /** Every endpoint: the chosen one first, then by total, those that a filter dropped last. */
  endpoints: EndpointExplanation[];
}

/** How one endpoint was rated. */
export interface EndpointExplanation {
  /** Name of the endpoint. */
  endpoint: string;
  /** Σ weight · score; `null` if a filter dropped the endpoint. */
  total: number | null;
  /** The filter that dropped the endpoint. */
  droppedBy: string | null;
  /** Leading prompt tokens that it holds. */
  matchedTokens: number;
  /** Predicted seconds before the prefill would start; `null` while no prefill rate is known. */
  waitSeconds: number | null;
  /** Seconds that were left before the load gate would have dropped it. */
  gateMarginSeconds: number | null;
  /** Seconds since the last good scrape; `null` if there was none. */
  metricsAgeSeconds: number | null;
  /** Own requests in flight. */
  requestsInFlight: number;
  /** One entry per scorer. */
  scores: ScoreExplanation[];
}

/** What one scorer contributed. */
export interface ScoreExplanation {
  /** Type name of the scorer. */
  scorer: string;
  /** The number that the score comes from; `null` if it is not known. */
  raw: number | null;
  /** The score in [0, 1]. */
  score: number;
  /** Whether the input was missing. */
  missing: boolean;
  /** Weight of the scorer. */
  weight: number;
  /** weight · score */
  contribution: number;
}

/** How a request ended. */
export interface Outcome {
  /** Whether the endpoint answered the request. */
  success: boolean;
  /** `usage.prompt_tokens`, if the engine reported it. */
  promptTokens?: number | null;
  /** `usage.completion_tokens`, if the engine reported it. */
  completionTokens?: number | null;
  /** `usage.prompt_tokens_details.cached_tokens`, if the engine reported it. */
  cachedTokens?: number | null;
  /** The endpoint that really served, where that may be another one than the chosen. */
  servedBy?: string | null;
}

/** The load of one endpoint as its engine reports it; what it does not report is `null`. */
export interface EndpointMetrics {
  /** Requests that wait for their prefill to start. */
  waitingRequests: number | null;
  /** Requests in the running batch. */
  runningRequests: number | null;
  /** Share of the KV cache held by running requests, in [0, 1]. */
  kvCacheUtilization: number | null;
  /** Tokens per KV block. */
  blockSizeTokens: number | null;
  /** KV blocks of the endpoint. */
  blockCount: number | null;
  /** How many adapters (LoRA) can be loaded at once. */
  maxAdapters: number | null;
  /** Adapters that serve requests now. */
  runningAdapters: string[];
  /** Adapters that requests wait for. */
  waitingAdapters: string[];
  /** Prompt tokens looked up in the prefix cache since the engine started. */
  prefixCacheQueriesTotal: number | null;
  /** Prompt tokens found in the prefix cache since the engine started. */
  prefixCacheHitsTotal: number | null;
  /** Requests finished since the engine started. */
  requestSuccessTotal: number | null;
}

/** One change of an engine's KV cache. Hashes beyond 2^53 are `bigint`s. */
export type KvEvent =
  | {
      type: 'stored';
      /** The engine's names for the blocks, first block first. */
      blockHashes?: (number | bigint)[];
      /** The block that these continue; `null` if they start a prompt. */
      parent?: number | bigint | null;
      /** Token ids of all blocks. */
      tokenIds?: number[];
      /** Tokens per block. */
      blockSize?: number;
      /** Name of the adapter (LoRA) that the blocks were computed with. */
      adapter?: string | null;
      /** The request's cache salt. */
      cacheSalt?: string | null;
      /** What identifies each block besides its tokens, as a hash; 0 for nothing. */
      media?: (number | bigint)[];
      /** Where the blocks are. */
      medium?: string | null;
      /** Group of layers. */
      group?: number | null;
      /** Kind of attention of that group. */
      attention?: string | null;
    }
  | {
      type: 'removed';
      /** The engine's names for the blocks. */
      blockHashes?: (number | bigint)[];
      /** Where the blocks were. */
      medium?: string | null;
      /** Group of layers. */
      group?: number | null;
    }
  | { type: 'cleared' };

/** The fields of a batch. */
export interface KvEventBatchFields {
  /** Number of the batch in its stream, without gaps. */
  sequence?: number;
  /** When the engine published it, in seconds of its own clock. */
  timestamp?: number;
  /** Data-parallel rank of the engine. */
  rank?: number;
  /** The events, in their order. */
  events?: KvEvent[];
}

/** Events that an engine published together. They stay on the native side unless they are looked at. */
export class KvEventBatch {
  /** A batch from its fields. */
  constructor(fields: KvEventBatchFields);
  /** Reads the `MessagePack` payload of a message that vLLM or SGLang published, with its sequence number. */
  static decode(payload: Uint8Array, sequence: number): KvEventBatch;
  /** Number of the batch in its stream. */
  get sequence(): number;
  /** When the engine published it, in seconds of its own clock. */
  get timestamp(): number;
  /** Data-parallel rank of the engine. */
  get rank(): number;
  /** The events; made anew by every look. */
  get events(): KvEvent[];
}

/** What became of a batch. With a `gap`, ask the engine to replay from `expected`. */
export type KvBatchOutcome =
  | { type: 'applied' | 'restarted' | 'repeated' }
  | {
      type: 'gap';
      /** The sequence number that would have come next. */
      expected: number;
    };

/** A picture of the whole scheduler. */
export interface Stats {
  /** Every endpoint, in no particular order. */
  endpoints: EndpointStats[];
  /** Requests in flight, all endpoints together. */
  requestsInFlight: number;
  /** Size of the prefix index: different blocks, and memory in bytes. */
  index: { uniqueBlocks: number; bytes: number };
  /** Counts since the scheduler was made. */
  counters: Counters;
}

/** One endpoint as the scheduler sees it. */
export interface EndpointStats {
  /** Name of the endpoint. */
  endpoint: string;
  /** Whether it is believed to serve. */
  reachable: boolean;
  /** Seconds since the last good scrape; `null` if there was none. */
  metricsAgeSeconds: number | null;
  /** Requests that wait in the engine, as scraped. */
  waitingRequests: number | null;
  /** Requests in the running batch, as scraped. */
  runningRequests: number | null;
  /** Share of the KV cache in use, as scraped. */
  kvCacheUtilization: number | null;
  /** Own requests in flight. */
  requestsInFlight: number;
  /** Prompt tokens of own requests in flight. */
  tokensInFlight: number;
  /** Uncached tokens of own requests whose first token was not seen yet. */
  queuedTokens: number;
  /** Predicted seconds before a new prefill would start. */
  waitSeconds: number | null;
  /** Prefill rate, configured or learned. */
  prefillTokensPerSecond: number | null;
  /** Blocks of this endpoint in the prefix index. */
  indexBlocks: number;
  /** Whether the endpoint sends KV events. */
  sendsKvEvents: boolean;
  /** Tokens that completed requests were expected to find in the cache. */
  predictedCachedTokens: number;
  /** Tokens that the engine reported as found for the same requests. */
  actualCachedTokens: number;
  /** Predictions in a row that came to nothing. */
  missedPredictions: number;
  /** Whether the endpoint's entries were forgotten for that. */
  predictionsDistrusted: boolean;
}

/** Counts since the scheduler was made. */
export interface Counters {
  picks: number;
  warmPicks: number;
  promptTokens: number;
  matchedTokens: number;
  refusedPicks: number;
  loadGateDrops: number;
  tiedPicks: number;
  completedRequests: number;
  failedRequests: number;
  servedElsewhere: number;
  expiredBookings: number;
  engineRestarts: number;
  kvEvents: number;
  skippedKvEvents: number;
  orphanedKvEvents: number;
  kvEventGaps: number;
  kvEventRestarts: number;
  unconfirmedBlocks: number;
  predictionClears: number;
}

/**
 * Picks endpoints for requests.
 *
 * @example
 * const scheduler = new Scheduler('latency');
 * scheduler.setEndpoints(['10.0.0.1:8000', '10.0.0.2:8000']);
 * const { id, endpoint } = scheduler.pickBody('/v1/chat/completions', body);
 * // … forward the request to `endpoint` …
 * scheduler.firstToken(id);
 * scheduler.complete(id, { success: true });
 */
export class Scheduler {
  /** A scheduler without endpoints, from a configuration or the name of a preset. Throws `InvalidConfig`. */
  constructor(config?: SchedulerConfig | string);
  /** The configuration in force. */
  get config(): Required<SchedulerConfig>;

  /** Adds an endpoint; one of the same name keeps its state and takes the new labels. Throws `InvalidConfig`. */
  addEndpoint(endpoint: string | Endpoint): void;
  /** Removes an endpoint and everything that is known of it. Throws `UnknownEndpoint`. */
  removeEndpoint(name: string): void;
  /** Makes these the only endpoints and keeps what is known of those that stay. Throws `InvalidConfig`. */
  setEndpoints(endpoints: Iterable<string | Endpoint>): void;

  /** Reads an engine's metrics page (Prometheus text). Throws `InvalidMetrics`, `UnknownEndpoint`. */
  ingestMetrics(endpoint: string, page: string | Uint8Array, options?: Timing): void;
  /** Takes metrics that were read in some other way. Throws `InvalidMetrics`, `UnknownEndpoint`. */
  observe(endpoint: string, metrics: Partial<EndpointMetrics>, options?: Timing): void;
  /** Reads the response header `endpoint-load-metrics`. Throws `InvalidMetrics`, `UnknownEndpoint`. */
  ingestLoadHeader(endpoint: string, value: string, options?: Timing): void;
  /** Takes note that a scrape failed: nobody listens, or no answer came. Throws `UnknownEndpoint`. */
  scrapeFailed(endpoint: string, failure: 'unreachable' | 'failed', options?: Timing): void;

  /**
   * Picks the endpoint for a request, books the work on it and remembers the prefix, in one step.
   * Throws `NoEndpoints`, `NoEligibleEndpoint`, `InvalidRequest`.
   */
  pick(request: Request & { explain: true }, options?: Timing): ExplainedDecision;
  pick(request: Request, options?: Timing): Decision;
  /** As `pick`, for the body of an HTTP request; paths are matched by their end. This is the fast way. */
  pickBody(path: string, body: string | Uint8Array, options: RequestFields & Timing & { explain: true }): ExplainedDecision;
  pickBody(path: string, body: string | Uint8Array, options?: RequestFields & Timing): Decision;
  /** What `pick` would answer now, with its explanation; records nothing. */
  explain(request: Request, options?: Timing): ExplainedDecision;
  /** What `pickBody` would answer now, with its explanation; records nothing. */
  explainBody(path: string, body: string | Uint8Array, options?: RequestFields & Timing): ExplainedDecision;

  /** Reports the first token of a request; a second report changes nothing. Throws `UnknownRequest`. */
  firstToken(id: number, options?: Timing): void;
  /** Reports the end of a request; a second report changes nothing. Throws `UnknownRequest`. */
  complete(id: number, outcome: Outcome, options?: Timing): void;

  /** Applies one event of an endpoint's engine. Throws `InvalidKvEvent`, `UnknownEndpoint`. */
  applyKvEvent(endpoint: string, event: KvEvent, options?: Timing): void;
  /** Applies a batch of an engine's numbered stream. Throws `InvalidKvEvent`, `UnknownEndpoint`. */
  applyKvBatch(endpoint: string, batch: KvEventBatch | KvEventBatchFields, options?: Timing): KvBatchOutcome;
  /** Goes on after missing batches that cannot be replayed: expects the batch `next`. Throws `UnknownEndpoint`. */
  resumeKvEvents(endpoint: string, rank: number, next: number): void;

  /** The prefix index and the learned rates as bytes, for `restore` after a restart. */
  snapshot(): Buffer;
  /** Takes over what a snapshot holds. Throws `InvalidSnapshot`. */
  restore(snapshot: Uint8Array): void;
  /** A picture of the scheduler, for metrics and dashboards. */
  stats(options?: Timing): Stats;
}

/** Tokens of one answer; what it does not say is absent. */
export interface Usage {
  /** Tokens of the prompt, cached ones included. */
  promptTokens?: number;
  /** Tokens that were generated. */
  completionTokens?: number;
  /** Tokens of the prompt that were found in the prefix cache. */
  cachedTokens?: number;
}

/** Finds the usage in an answer, JSON or event stream, that passes by in chunks of any size. Use one per answer. */
export class UsageScanner {
  /** Passes over the next bytes of the answer. */
  push(chunk: string | Uint8Array): void;
  /** What the answer has said so far. */
  finish(): Usage;
}

/** What a request body holds. */
export interface Body {
  /** Name of the model, empty if the client named none. */
  model: string;
  /** Canonical bytes of the prompt, if it is text. */
  prompt?: Buffer;
  /** Token ids of the prompt, if it is given in them. */
  tokens?: Uint32Array;
  /** vLLM's cache salt. */
  cacheSalt?: string;
  /** Key that ties the requests of one conversation or user together. */
  session?: string;
  /** Whether the client asked for a streamed answer. */
  stream: boolean;
  /** First byte of the value of `model`, quotes included: replace up to `modelEnd` to rename it. */
  modelStart?: number;
  /** First byte behind the value of `model`. */
  modelEnd?: number;
}

/** Reads the body of a request to `path` and picks nothing. Throws `InvalidRequest`. */
export function readBody(path: string, body: string | Uint8Array): Body;
/** The load that an engine's metrics page reports. Throws `InvalidMetrics`. */
export function readMetrics(page: string | Uint8Array): EndpointMetrics;
/** The load in a response header `endpoint-load-metrics`. Throws `InvalidMetrics`. */
export function readLoadHeader(value: string): EndpointMetrics;
/** The chained hashes of a request's full blocks, as the prefix index knows them. Throws `InvalidConfig`. */
export function blockHashes(
  request: Request,
  options: { blockSizeTokens: number; bytesPerToken: number; maxPrefixTokens?: number | null },
): BigUint64Array;
/** The configuration of a preset. Throws `InvalidConfig`. */
export function preset(name: string): Required<SchedulerConfig>;
/** Names of all presets. */
export function presetNames(): string[];
/** Version of the package. */
export const version: string;
