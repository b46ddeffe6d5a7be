/* p3sched: picks the replica that should serve an LLM request.
 *
 * The contract of every function here
 *
 * 1. Status. Functions that can fail return a p3sched_status. P3SCHED_STATUS_OK is 0; numbers are never given another
 *    meaning, later versions may add some. After a failure nothing has changed, outputs are not written, and
 *    p3sched_last_error_message() describes it for the thread that called.
 * 2. Pointers. A pointer is NULL only where its function says so; NULL elsewhere is P3SCHED_STATUS_NULL_POINTER, and
 *    functions that return a value give 0 or NULL for it. A pointer that is not NULL points to what its type and length
 *    say. An array of length 0 may be NULL.
 * 3. Texts. `const char *` without a length is UTF-8 that ends with NUL, else it is P3SCHED_STATUS_INVALID_UTF8.
 * 4. Ownership. What you pass is only read during the call, or copied. What a function writes to a `p3sched_... **` is
 *    yours: free it once, with the function of its type whose name ends in _free; never with free(). Texts that functions
 *    return belong to the handle that they were asked of, and live as long as it.
 * 5. Threads. Any number of threads may use one p3sched_scheduler, and read one p3sched_decision or p3sched_buffer, at the
 *    same time; a p3sched_usage_scanner is for one thread at a time. Freeing is for the last thread that uses a handle.
 *    No function waits for I/O or starts a thread; a call holds a lock for microseconds (a snapshot: for as long as it
 *    takes to copy the index).
 * 6. Panics. A defect of the library does not unwind into C: it becomes P3SCHED_STATUS_PANIC.
 * 7. Structures. Start from all zeros (`= {0}`) and set what you know. Programs need a library of the same
 *    P3SCHED_VERSION_MAJOR and _MINOR as their header.
 *
 * This file is generated from the crate p3sched-c.
 */

#ifndef P3SCHED_H
#define P3SCHED_H

#include <stddef.h>
#include <stdint.h>

#define P3SCHED_VERSION "0.1.0"
#define P3SCHED_VERSION_MAJOR 0
#define P3SCHED_VERSION_MINOR 1
#define P3SCHED_VERSION_PATCH 0


// A time for `p3sched_scheduler_set_time`: let the scheduler read a monotonic clock, as it does from the beginning.
#define P3SCHED_OWN_CLOCK UINT64_MAX

// How a call ended. Numbers are never given another meaning; a later version may add some.
enum p3sched_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It did what was asked for.
    P3SCHED_STATUS_OK = 0,
    // The configuration, or the name of an endpoint, cannot work.
    P3SCHED_STATUS_INVALID_CONFIG = 1,
    // The request cannot be read.
    P3SCHED_STATUS_INVALID_REQUEST = 2,
    // The scheduler has no endpoints at all.
    P3SCHED_STATUS_NO_ENDPOINTS = 3,
    // There are endpoints, but a filter left none of them.
    P3SCHED_STATUS_NO_ELIGIBLE_ENDPOINT = 4,
    // No endpoint of this name is known.
    P3SCHED_STATUS_UNKNOWN_ENDPOINT = 5,
    // This id was never handed out by a pick of this scheduler.
    P3SCHED_STATUS_UNKNOWN_REQUEST = 6,
    // The metrics cannot be read.
    P3SCHED_STATUS_INVALID_METRICS = 7,
    // A KV event, or the payload that should hold some, cannot be used.
    P3SCHED_STATUS_INVALID_KV_EVENT = 8,
    // The snapshot is truncated, corrupted or of another format.
    P3SCHED_STATUS_INVALID_SNAPSHOT = 9,
    // An error that this version of the header has no number for; the message describes it.
    P3SCHED_STATUS_OTHER = 99,
    // A pointer is NULL that must not be.
    P3SCHED_STATUS_NULL_POINTER = 100,
    // A text is not UTF-8.
    P3SCHED_STATUS_INVALID_UTF8 = 101,
    // A length, an alignment or a number that no correct program passes.
    P3SCHED_STATUS_INVALID_ARGUMENT = 102,
    // A defect of the library was caught; handles may still be used and freed. Please report it with the message.
    P3SCHED_STATUS_PANIC = 103,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum p3sched_status p3sched_status;
#else
typedef int32_t p3sched_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What became of a batch of KV events.
enum p3sched_kv_batch_fate
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Its events were applied.
    P3SCHED_KV_BATCH_FATE_APPLIED = 0,
    // The engine has restarted: what the rank held was forgotten, then the events were applied.
    P3SCHED_KV_BATCH_FATE_RESTARTED = 1,
    // It came before; nothing was changed.
    P3SCHED_KV_BATCH_FATE_REPEATED = 2,
    // Batches are missing; nothing was applied. Ask the engine to replay from `expected` on and apply that in its order;
    // where it cannot, call `p3sched_scheduler_resume_kv_events`.
    P3SCHED_KV_BATCH_FATE_GAP = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum p3sched_kv_batch_fate p3sched_kv_batch_fate;
#else
typedef uint32_t p3sched_kv_batch_fate;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Why a scrape of an engine's metrics brought nothing.
enum p3sched_scrape_failure
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Nobody listens (connection refused): the endpoint is out at once, and its cache is gone.
    P3SCHED_SCRAPE_FAILURE_UNREACHABLE = 0,
    // No answer (timeout, broken connection): out after a few in a row.
    P3SCHED_SCRAPE_FAILURE_FAILED = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum p3sched_scrape_failure p3sched_scrape_failure;
#else
typedef uint32_t p3sched_scrape_failure;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Bytes that the library made: a snapshot, or a JSON text.
typedef struct p3sched_buffer p3sched_buffer;

// Which endpoint serves a request, and why. Does not change after it was made.
typedef struct p3sched_decision p3sched_decision;

// Picks endpoints for requests. Any number of threads may use one at the same time.
typedef struct p3sched_scheduler p3sched_scheduler;

// Finds the usage in an answer that passes by in pieces. One thread at a time may use it.
typedef struct p3sched_usage_scanner p3sched_usage_scanner;

// A word about an endpoint, for display and for filters that select by label.
typedef struct p3sched_label {
    // What it is about, for example `model`.
    const char *name;
    // The word.
    const char *value;
} p3sched_label;

// One replica of a model server that can be picked.
typedef struct p3sched_endpoint {
    // Where it is reached, `host:port`; also its name in every decision.
    const char *name;
    // Its labels; may be NULL if there are none.
    const struct p3sched_label *labels;
    // How many labels there are.
    size_t label_count;
} p3sched_endpoint;

// What became of a batch of KV events, and where its stream goes on.
typedef struct p3sched_kv_batch_result {
    // What became of it.
    p3sched_kv_batch_fate fate;
    // After a gap: the sequence number that would have come next; else 0.
    uint64_t expected;
} p3sched_kv_batch_result;

// What is known of a request besides its body. Start from `{0}`, which says nothing; what is set replaces what the body
// says.
typedef struct p3sched_pick_options {
    // LoRA adapter, when it is known apart from the model name; or NULL.
    const char *adapter;
    // Key that ties the requests of one conversation or user together; or NULL.
    const char *session;
    // Names of the only endpoints that may serve this request, with or without a port; NULL allows all.
    const char *const *subset;
    // How many names there are.
    size_t subset_count;
    // Larger is more urgent; negative requests may be shed.
    int32_t priority;
    // Not 0: the decision shall carry an explanation.
    int explain;
} p3sched_pick_options;

// A request that is not an HTTP body. Start from `{0}`, which is a request without prompt.
typedef struct p3sched_request {
    // Name of the model; or NULL.
    const char *model;
    // Requests with different salts never share a prefix; or NULL.
    const char *cache_salt;
    // The prompt as `text_length` bytes of text; or NULL. Not together with `token_ids`.
    const void *text;
    // Bytes of text.
    size_t text_length;
    // The prompt as `token_count` token ids of the model's own tokenizer; or NULL.
    const uint32_t *token_ids;
    // How many token ids there are.
    size_t token_count;
    // Everything else.
    struct p3sched_pick_options options;
} p3sched_request;

// A piece of a request body.
typedef struct p3sched_slice {
    // Its first byte; may be NULL if `length` is 0.
    const void *data;
    // Its length in bytes.
    size_t length;
} p3sched_slice;

// A number of tokens that may not be known. Start from `{0}`, which is not known.
typedef struct p3sched_token_count {
    // Not 0: `tokens` is known.
    int is_known;
    // The number.
    uint32_t tokens;
} p3sched_token_count;

// How a request ended. Start from `{0}`, which is a failure of which nothing more is known.
typedef struct p3sched_outcome {
    // Not 0: the endpoint answered the request.
    int success;
    // `usage.prompt_tokens` of the answer.
    struct p3sched_token_count prompt_tokens;
    // `usage.completion_tokens` of the answer.
    struct p3sched_token_count completion_tokens;
    // `usage.prompt_tokens_details.cached_tokens` of the answer: what was really found in the cache.
    struct p3sched_token_count cached_tokens;
    // The endpoint that really served, where that may be another one than the chosen; or NULL.
    const char *served_by;
} p3sched_outcome;

// Tokens of one answer, for the fields of the same names in `p3sched_outcome`.
typedef struct p3sched_usage {
    // Tokens of the prompt, cached ones included.
    struct p3sched_token_count prompt_tokens;
    // Tokens that were generated.
    struct p3sched_token_count completion_tokens;
    // Tokens of the prompt that were found in the prefix cache.
    struct p3sched_token_count cached_tokens;
} p3sched_usage;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Describes the last call of this thread that failed: one line of UTF-8, empty if none failed yet. The text belongs to the
// library and is valid until the next call of this thread that fails; calls that succeed leave it as it is.
const char *p3sched_last_error_message(void);

// Name of a status, the same string as the error's code in the other languages, for example `NoEndpoints`. The text
// belongs to the library and is always valid; a number without a name gives `Unknown`.
const char *p3sched_status_name(int32_t status);

// Version of the library that runs, for example `0.1.0`; compare it with `P3SCHED_VERSION` of the header. The text belongs
// to the library and is always valid.
const char *p3sched_version(void);

// Makes a scheduler without endpoints from a configuration in JSON (see the documentation of `SchedulerConfig`), for
// example `{"preset": "latency", "fallbacks": 1}`; NULL and 0 take the defaults. The caller owns `*scheduler` and frees it
// with `p3sched_scheduler_free`.
p3sched_status p3sched_scheduler_new(const char *config,
                                     size_t config_length,
                                     struct p3sched_scheduler **scheduler);

// Frees a scheduler, which no other thread may be using any more; NULL is fine. Decisions and buffers live on.
void p3sched_scheduler_free(struct p3sched_scheduler *scheduler);

// Adds an endpoint without labels; one of the same name keeps its state and loses its labels. `name` (`host:port`) is
// copied.
p3sched_status p3sched_scheduler_add_endpoint(const struct p3sched_scheduler *scheduler, const char *name);

// Adds an endpoint with labels; one of the same name keeps its state and takes the new labels. `endpoint` is copied.
p3sched_status p3sched_scheduler_add_labelled_endpoint(const struct p3sched_scheduler *scheduler,
                                                       const struct p3sched_endpoint *endpoint);

// Removes an endpoint and everything that is known of it; its requests in flight end silently.
p3sched_status p3sched_scheduler_remove_endpoint(const struct p3sched_scheduler *scheduler, const char *name);

// Makes these the only endpoints: adds the new ones, removes the missing ones, keeps what is known of the others. The
// `count` descriptions at `endpoints` are copied.
p3sched_status p3sched_scheduler_set_endpoints(const struct p3sched_scheduler *scheduler,
                                               const struct p3sched_endpoint *endpoints,
                                               size_t count);

// Sets the scheduler's time, in nanoseconds from any fixed origin, where it stays until the next call: for simulators and
// tests. `P3SCHED_OWN_CLOCK` lets it read the clock again.
p3sched_status p3sched_scheduler_set_time(const struct p3sched_scheduler *scheduler,
                                          uint64_t nanoseconds);

// Writes the configuration in force as JSON. The caller owns `*json` and frees it with `p3sched_buffer_free`.
p3sched_status p3sched_scheduler_config(const struct p3sched_scheduler *scheduler, struct p3sched_buffer **json);

// Writes a picture of the scheduler as JSON, for metrics and dashboards: endpoints, requests in flight, counters. The
// caller owns `*json` and frees it with `p3sched_buffer_free`.
p3sched_status p3sched_scheduler_stats(const struct p3sched_scheduler *scheduler, struct p3sched_buffer **json);

// Writes the prefix index and the learned rates as bytes, for `p3sched_scheduler_restore` after a restart. The caller owns
// `*snapshot` and frees it with `p3sched_buffer_free`.
p3sched_status p3sched_scheduler_snapshot(const struct p3sched_scheduler *scheduler,
                                          struct p3sched_buffer **snapshot);

// Replaces the prefix index and the learned rates by those of a snapshot, before or after endpoints are added. The
// `length` bytes at `snapshot` are copied.
p3sched_status p3sched_scheduler_restore(const struct p3sched_scheduler *scheduler,
                                         const void *snapshot,
                                         size_t length);

// Reads an engine's metrics page (the body of `GET /metrics`) for an endpoint. The `length` bytes at `page` are only read.
p3sched_status p3sched_scheduler_ingest_metrics(const struct p3sched_scheduler *scheduler,
                                                const char *endpoint,
                                                const void *page,
                                                size_t length);

// Takes metrics that were read in some other way, as JSON, for example `{"waiting_requests": 3, "kv_cache_utilization":
// 0.5}` (see the documentation of `EndpointMetrics`). The `length` bytes at `json` are only read.
p3sched_status p3sched_scheduler_observe(const struct p3sched_scheduler *scheduler,
                                         const char *endpoint,
                                         const char *json,
                                         size_t length);

// Reads the load that an engine reported with a response, from the value of its header `endpoint-load-metrics`. The
// `length` bytes at `value` are only read.
p3sched_status p3sched_scheduler_ingest_load_header(const struct p3sched_scheduler *scheduler,
                                                    const char *endpoint,
                                                    const char *value,
                                                    size_t length);

// Takes note that a scrape of an endpoint failed, and why (a `p3sched_scrape_failure`).
p3sched_status p3sched_scheduler_scrape_failed(const struct p3sched_scheduler *scheduler,
                                               const char *endpoint,
                                               uint32_t failure);

// Applies one event of an endpoint's engine, as JSON (see the documentation of `KvEvent`), outside of any numbered stream.
// The `length` bytes at `json` are only read.
p3sched_status p3sched_scheduler_apply_kv_event(const struct p3sched_scheduler *scheduler,
                                                const char *endpoint,
                                                const char *json,
                                                size_t length);

// Applies a batch of the numbered stream that an endpoint's engine publishes, as JSON (see the documentation of
// `KvEventBatch`). The `length` bytes at `json` are only read; `*result` is a plain value.
p3sched_status p3sched_scheduler_apply_kv_batch(const struct p3sched_scheduler *scheduler,
                                                const char *endpoint,
                                                const char *json,
                                                size_t length,
                                                struct p3sched_kv_batch_result *result);

// Applies a batch as vLLM or SGLang published it: its payload in `MessagePack` and the sequence number that came beside it.
// The `length` bytes at `payload` are only read; `*result` is a plain value.
p3sched_status p3sched_scheduler_apply_kv_payload(const struct p3sched_scheduler *scheduler,
                                                  const char *endpoint,
                                                  const void *payload,
                                                  size_t length,
                                                  uint64_t sequence,
                                                  struct p3sched_kv_batch_result *result);

// Goes on after missing batches that cannot be replayed: forgets what the rank holds and expects the batch `next`.
p3sched_status p3sched_scheduler_resume_kv_events(const struct p3sched_scheduler *scheduler,
                                                  const char *endpoint,
                                                  uint32_t rank,
                                                  uint64_t next);

// Writes what a payload of vLLM or SGLang says as JSON, the form that `p3sched_scheduler_apply_kv_batch` reads. The
// `length` bytes at `payload` are only read; the caller owns `*json` and frees it with `p3sched_buffer_free`.
p3sched_status p3sched_kv_batch_decode(const void *payload,
                                       size_t length,
                                       uint64_t sequence,
                                       struct p3sched_buffer **json);

// Picks the endpoint for a request, books the work on it and remembers the prefix, in one step. `request` is only read;
// the caller owns `*decision` and frees it with `p3sched_decision_free`.
p3sched_status p3sched_scheduler_pick(const struct p3sched_scheduler *scheduler,
                                      const struct p3sched_request *request,
                                      struct p3sched_decision **decision);

// Picks the endpoint for the HTTP body of a request to `path`, which is matched by its end (`/v1/chat/completions`,
// `/v1/completions`, `/v1/responses`, `/v1/messages`, `/v1/embeddings`, `/generate`); any other path, and a body of none,
// is picked by load alone. The `chunk_count` pieces at `chunks` are the body one behind the other and are only read; one
// piece is not copied. `options` may be NULL; the caller owns `*decision` and frees it with `p3sched_decision_free`.
p3sched_status p3sched_scheduler_pick_body(const struct p3sched_scheduler *scheduler,
                                           const char *path,
                                           const struct p3sched_slice *chunks,
                                           size_t chunk_count,
                                           const struct p3sched_pick_options *options,
                                           struct p3sched_decision **decision);

// What `p3sched_scheduler_pick` would answer now, with its explanation; records nothing. `request` is only read; the
// caller owns `*decision` and frees it with `p3sched_decision_free`.
p3sched_status p3sched_scheduler_explain(const struct p3sched_scheduler *scheduler,
                                         const struct p3sched_request *request,
                                         struct p3sched_decision **decision);

// What `p3sched_scheduler_pick_body` would answer now, with its explanation; records nothing. The body is only read,
// `options` may be NULL; the caller owns `*decision` and frees it with `p3sched_decision_free`.
p3sched_status p3sched_scheduler_explain_body(const struct p3sched_scheduler *scheduler,
                                              const char *path,
                                              const struct p3sched_slice *chunks,
                                              size_t chunk_count,
                                              const struct p3sched_pick_options *options,
                                              struct p3sched_decision **decision);

// Reports the first token of a request: its prefill is done. A second report changes nothing.
p3sched_status p3sched_scheduler_first_token(const struct p3sched_scheduler *scheduler, uint64_t id);

// Reports the end of a request; a second report changes nothing. `outcome` is only read, NULL stands for a success of
// which nothing more is known.
p3sched_status p3sched_scheduler_complete(const struct p3sched_scheduler *scheduler,
                                          uint64_t id,
                                          const struct p3sched_outcome *outcome);

// Id of the request for `p3sched_scheduler_first_token` and `p3sched_scheduler_complete`: below 2^53, never reused, 0 if
// nothing was booked (after `explain`); NULL gives 0.
uint64_t p3sched_decision_id(const struct p3sched_decision *decision);

// Name of the chosen endpoint. The text belongs to the decision; NULL gives NULL.
const char *p3sched_decision_endpoint(const struct p3sched_decision *decision);

// How many further endpoints are named, to be tried in order if the chosen one fails: at most `fallbacks` of the
// configuration. NULL gives 0.
size_t p3sched_decision_fallback_count(const struct p3sched_decision *decision);

// Name of a further endpoint, counted from 0. The text belongs to the decision; NULL, or a number that is too large, gives
// NULL.
const char *p3sched_decision_fallback(const struct p3sched_decision *decision,
                                      size_t at);

// Leading tokens of the prompt that the chosen endpoint is expected to hold in its cache; NULL gives 0.
uint32_t p3sched_decision_matched_tokens(const struct p3sched_decision *decision);

// Tokens of the prompt, an estimate where the prompt is text; NULL gives 0.
uint32_t p3sched_decision_prompt_tokens(const struct p3sched_decision *decision);

// The whole decision as JSON, with the explanation if there is one, as in every language. The text belongs to the decision;
// NULL gives NULL.
const char *p3sched_decision_json(const struct p3sched_decision *decision);

// How every endpoint was rated, as JSON. The text belongs to the decision; NULL, or a decision that was made without
// `explain`, gives NULL.
const char *p3sched_decision_explanation_json(const struct p3sched_decision *decision);

// How every endpoint was rated, as a table for a terminal. The text belongs to the decision; NULL, or a decision that was
// made without `explain`, gives NULL.
const char *p3sched_decision_explanation_text(const struct p3sched_decision *decision);

// Frees a decision; NULL is fine. This does not end the request: that is what `p3sched_scheduler_complete` is for.
void p3sched_decision_free(struct p3sched_decision *decision);

// Makes a scanner for one answer, JSON or server-sent events. The caller owns `*scanner` and frees it with
// `p3sched_usage_scanner_free`.
p3sched_status p3sched_usage_scanner_new(struct p3sched_usage_scanner **scanner);

// Passes over the next bytes of the answer. The `length` bytes at `data` are only read; at most 16 KiB are kept.
p3sched_status p3sched_usage_scanner_push(struct p3sched_usage_scanner *scanner, const void *data, size_t length);

// Writes what the answer has said so far; `*usage` is a plain value. The scanner may go on.
p3sched_status p3sched_usage_scanner_finish(const struct p3sched_usage_scanner *scanner, struct p3sched_usage *usage);

// Frees a scanner; NULL is fine.
void p3sched_usage_scanner_free(struct p3sched_usage_scanner *scanner);

// First byte of a buffer's contents; one NUL stands behind the last, so that a JSON text is a C string. The bytes belong to
// the buffer and are valid until it is freed; NULL gives NULL.
const char *p3sched_buffer_data(const struct p3sched_buffer *buffer);

// Length of a buffer's contents in bytes, without the NUL behind them; NULL gives 0.
size_t p3sched_buffer_length(const struct p3sched_buffer *buffer);

// Frees a buffer; NULL is fine.
void p3sched_buffer_free(struct p3sched_buffer *buffer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* P3SCHED_H */
