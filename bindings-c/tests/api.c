/* Every function once, as a program would use it, and its errors. */
#include "check.h"

#include <stdlib.h>

static const char CHAT[] = "{\"model\": \"llama\", \"messages\": [{\"role\": \"user\", \"content\": \"Tell me about the "
                           "sea, its tides, its fish, its ships and its storms, and do not stop before the coast.\"}]}";

static p3sched_scheduler *new_scheduler(const char *config) {
    p3sched_scheduler *scheduler = NULL;
    OK(p3sched_scheduler_new(config, config ? strlen(config) : 0, &scheduler));
    OK(p3sched_scheduler_add_endpoint(scheduler, "10.0.0.1:8000"));
    OK(p3sched_scheduler_add_endpoint(scheduler, "10.0.0.2:8000"));
    return scheduler;
}

static void configurations(void) {
    p3sched_scheduler *scheduler = NULL;
    p3sched_buffer *json = NULL;
    const char *config = "{\"preset\": \"latency\", \"fallbacks\": 1}";
    OK(p3sched_scheduler_new(config, strlen(config), &scheduler));
    OK(p3sched_scheduler_config(scheduler, &json));
    CHECK(strstr(p3sched_buffer_data(json), "\"preset\":\"latency\"") != NULL);
    CHECK(strlen(p3sched_buffer_data(json)) == p3sched_buffer_length(json));
    p3sched_buffer_free(json);
    p3sched_scheduler_free(scheduler);

    scheduler = NULL;
    FAILS(INVALID_CONFIG, p3sched_scheduler_new("{\"presett\": 1}", 14, &scheduler), "unknown field `presett`");
    FAILS(INVALID_CONFIG, p3sched_scheduler_new("{\"preset\": \"x\"}", 15, &scheduler), "invalid configuration: ");
    FAILS(INVALID_CONFIG, p3sched_scheduler_new("{", 1, &scheduler), "invalid configuration: ");
    FAILS(NULL_POINTER, p3sched_scheduler_new(NULL, 1, &scheduler), "`config`");
    FAILS(NULL_POINTER, p3sched_scheduler_new(NULL, 0, NULL), "`scheduler` must not be NULL");
    FAILS(INVALID_ARGUMENT, p3sched_scheduler_new("{}", SIZE_MAX, &scheduler), "must fit into memory");
    CHECK(scheduler == NULL);
}

static void endpoints(void) {
    p3sched_scheduler *scheduler = new_scheduler(NULL);
    p3sched_label label = {"model", "llama"};
    p3sched_endpoint both[] = {{"10.0.0.2:8000", &label, 1}, {"10.0.0.3:8000", NULL, 0}};
    p3sched_buffer *stats = NULL;
    OK(p3sched_scheduler_set_endpoints(scheduler, both, 2));
    OK(p3sched_scheduler_stats(scheduler, &stats));
    CHECK(strstr(p3sched_buffer_data(stats), "10.0.0.3:8000") != NULL);
    CHECK(strstr(p3sched_buffer_data(stats), "10.0.0.1:8000") == NULL);
    p3sched_buffer_free(stats);
    OK(p3sched_scheduler_add_labelled_endpoint(scheduler, &both[0]));
    OK(p3sched_scheduler_remove_endpoint(scheduler, "10.0.0.2:8000"));
    FAILS(UNKNOWN_ENDPOINT, p3sched_scheduler_remove_endpoint(scheduler, "10.0.0.2:8000"), "`10.0.0.2:8000`");
    FAILS(INVALID_CONFIG, p3sched_scheduler_add_endpoint(scheduler, ""), "host:port");
    FAILS(INVALID_UTF8, p3sched_scheduler_add_endpoint(scheduler, "\xff"), "`name` must be UTF-8");
    FAILS(NULL_POINTER, p3sched_scheduler_add_endpoint(scheduler, NULL), "`name`");
    FAILS(NULL_POINTER, p3sched_scheduler_add_endpoint(NULL, "a:1"), "`scheduler`");
    FAILS(NULL_POINTER, p3sched_scheduler_set_endpoints(scheduler, NULL, 1), "`endpoints`");
    both[1].name = NULL;
    FAILS(NULL_POINTER, p3sched_scheduler_set_endpoints(scheduler, both, 2), "`name`");
    OK(p3sched_scheduler_set_endpoints(scheduler, NULL, 0));
    p3sched_decision *decision = NULL;
    p3sched_request request = {0};
    FAILS(NO_ENDPOINTS, p3sched_scheduler_pick(scheduler, &request, &decision), "add at least one");
    CHECK(decision == NULL);
    p3sched_scheduler_free(scheduler);
}

static void picks(void) {
    p3sched_scheduler *scheduler = new_scheduler("{\"fallbacks\": 1}");
    p3sched_slice whole = {CHAT, sizeof CHAT - 1};
    p3sched_slice pieces[] = {{CHAT, 40}, {NULL, 0}, {CHAT + 40, sizeof CHAT - 1 - 40}};
    p3sched_decision *first = NULL, *second = NULL, *third = NULL;
    OK(p3sched_scheduler_pick_body(scheduler, "/v1/chat/completions", &whole, 1, NULL, &first));
    CHECK(p3sched_decision_id(first) != 0 && p3sched_decision_matched_tokens(first) == 0);
    CHECK(p3sched_decision_explanation_json(first) == NULL && p3sched_decision_explanation_text(first) == NULL);
    CHECK(p3sched_decision_fallback_count(first) == 1 && p3sched_decision_fallback(first, 1) == NULL);
    CHECK(p3sched_decision_fallback(first, SIZE_MAX) == NULL);
    CHECK(strcmp(p3sched_decision_fallback(first, 0), p3sched_decision_endpoint(first)) != 0);
    CHECK(strncmp(p3sched_decision_fallback(first, 0), "10.0.0.", 7) == 0);

    p3sched_pick_options options = {0};
    options.explain = 1;
    OK(p3sched_scheduler_pick_body(scheduler, "/v1/chat/completions", pieces, 3, &options, &second));
    CHECK(strcmp(p3sched_decision_endpoint(first), p3sched_decision_endpoint(second)) == 0);
    CHECK(p3sched_decision_matched_tokens(second) > 0);
    CHECK(p3sched_decision_matched_tokens(second) <= p3sched_decision_prompt_tokens(second));
    CHECK(strstr(p3sched_decision_explanation_json(second), "\"scorer\":\"prefix-cache-scorer\"") != NULL);
    CHECK(strstr(p3sched_decision_explanation_text(second), "runner-up") != NULL);
    CHECK(strstr(p3sched_decision_json(second), "\"matched_tokens\"") != NULL);
    CHECK(p3sched_decision_json(second) == p3sched_decision_json(second));

    const char *only[] = {p3sched_decision_fallback(first, 0)};
    options.subset = only;
    options.subset_count = 1;
    OK(p3sched_scheduler_explain_body(scheduler, "/v1/chat/completions", &whole, 1, &options, &third));
    CHECK(p3sched_decision_id(third) == 0 && strcmp(p3sched_decision_endpoint(third), only[0]) == 0);
    p3sched_decision_free(third);
    third = NULL;
    options.subset_count = 0;
    FAILS(NO_ELIGIBLE_ENDPOINT,
          p3sched_scheduler_pick_body(scheduler, "/v1/chat/completions", &whole, 1, &options, &third), "subset-filter");
    FAILS(INVALID_REQUEST, p3sched_scheduler_pick_body(scheduler, "/v1/chat/completions", NULL, 0, NULL, &third),
          "invalid request: ");
    FAILS(NULL_POINTER, p3sched_scheduler_pick_body(scheduler, NULL, &whole, 1, NULL, &third), "`path`");
    FAILS(NULL_POINTER, p3sched_scheduler_pick_body(scheduler, "/", NULL, 2, NULL, &third), "`chunks`");
    FAILS(NULL_POINTER, p3sched_scheduler_pick_body(scheduler, "/", &whole, 1, NULL, NULL), "`decision`");
    CHECK(third == NULL);

    OK(p3sched_scheduler_first_token(scheduler, p3sched_decision_id(first)));
    OK(p3sched_scheduler_complete(scheduler, p3sched_decision_id(first), NULL));
    OK(p3sched_scheduler_complete(scheduler, p3sched_decision_id(first), NULL));
    p3sched_outcome outcome = {0};
    outcome.success = 1;
    outcome.cached_tokens.is_known = 1;
    outcome.cached_tokens.tokens = 16;
    outcome.served_by = only[0];
    OK(p3sched_scheduler_complete(scheduler, p3sched_decision_id(second), &outcome));
    FAILS(UNKNOWN_REQUEST, p3sched_scheduler_complete(scheduler, 12345, NULL), "`12345`");
    p3sched_scheduler_free(scheduler);
    /* A decision outlives its scheduler. */
    CHECK(strncmp(p3sched_decision_endpoint(first), "10.0.0.", 7) == 0);
    p3sched_decision_free(first);
    p3sched_decision_free(second);
}

static void picks_without_a_body(void) {
    p3sched_scheduler *scheduler = new_scheduler(NULL);
    uint32_t tokens[64];
    for (uint32_t i = 0; i < 64; i++) {
        tokens[i] = i;
    }
    p3sched_request request = {0};
    request.model = "llama";
    request.token_ids = tokens;
    request.token_count = 64;
    p3sched_decision *decision = NULL;
    OK(p3sched_scheduler_pick(scheduler, &request, &decision));
    CHECK(p3sched_decision_prompt_tokens(decision) == 64);
    p3sched_decision_free(decision);
    OK(p3sched_scheduler_explain(scheduler, &request, &decision));
    CHECK(p3sched_decision_matched_tokens(decision) == 64 && p3sched_decision_explanation_json(decision) != NULL);
    p3sched_decision_free(decision);
    request.text = CHAT;
    request.text_length = sizeof CHAT - 1;
    FAILS(INVALID_ARGUMENT, p3sched_scheduler_pick(scheduler, &request, &decision), "only one");
    request.token_ids = NULL;
    OK(p3sched_scheduler_pick(scheduler, &request, &decision));
    p3sched_decision_free(decision);
    request.text = NULL;
    request.token_ids = (const uint32_t *)(const void *)(CHAT + 1);
    FAILS(INVALID_ARGUMENT, p3sched_scheduler_pick(scheduler, &request, &decision), "aligned");
    p3sched_scheduler_free(scheduler);
}

static void load(void) {
    p3sched_scheduler *scheduler = new_scheduler(NULL);
    const char *page = "vllm:num_requests_waiting 3.0\n";
    const char *header = "JSON {\"named_metrics\": {\"kv_cache_usage_perc\": 0.25}}";
    const char *metrics = "{\"running_requests\": 7}";
    p3sched_buffer *stats = NULL;
    OK(p3sched_scheduler_set_time(scheduler, 5000000000u));
    OK(p3sched_scheduler_ingest_metrics(scheduler, "10.0.0.1:8000", page, strlen(page)));
    OK(p3sched_scheduler_ingest_load_header(scheduler, "10.0.0.1:8000", header, strlen(header)));
    OK(p3sched_scheduler_observe(scheduler, "10.0.0.2:8000", metrics, strlen(metrics)));
    OK(p3sched_scheduler_set_time(scheduler, 7000000000u));
    OK(p3sched_scheduler_stats(scheduler, &stats));
    CHECK(strstr(p3sched_buffer_data(stats), "\"waiting_requests\":3.0") != NULL);
    CHECK(strstr(p3sched_buffer_data(stats), "\"kv_cache_utilization\":0.25") != NULL);
    CHECK(strstr(p3sched_buffer_data(stats), "\"running_requests\":7.0") != NULL);
    CHECK(strstr(p3sched_buffer_data(stats), "\"metrics_age_seconds\":2.0") != NULL);
    p3sched_buffer_free(stats);
    OK(p3sched_scheduler_set_time(scheduler, P3SCHED_OWN_CLOCK));
    OK(p3sched_scheduler_scrape_failed(scheduler, "10.0.0.1:8000", P3SCHED_SCRAPE_FAILURE_UNREACHABLE));
    OK(p3sched_scheduler_scrape_failed(scheduler, "10.0.0.2:8000", P3SCHED_SCRAPE_FAILURE_FAILED));
    FAILS(INVALID_ARGUMENT, p3sched_scheduler_scrape_failed(scheduler, "10.0.0.2:8000", 2), "p3sched_scrape_failure");
    FAILS(INVALID_METRICS, p3sched_scheduler_ingest_metrics(scheduler, "10.0.0.1:8000", "x", 1), "invalid metrics: ");
    FAILS(INVALID_METRICS, p3sched_scheduler_observe(scheduler, "10.0.0.1:8000", "{\"x\":1}", 7), "unknown field `x`");
    FAILS(INVALID_UTF8, p3sched_scheduler_ingest_load_header(scheduler, "10.0.0.1:8000", "\xff", 1), "`value`");
    FAILS(UNKNOWN_ENDPOINT, p3sched_scheduler_observe(scheduler, "x:1", "{}", 2), "`x:1`");
    p3sched_scheduler_free(scheduler);
}

static void kv_events(void) {
    p3sched_scheduler *scheduler = new_scheduler("{\"kv_events\": {\"model\": \"llama\"}}");
    const char payload[] = "\x93\xcb\x40\x59\0\0\0\0\0\0\x91\x91\xb0"
                           "AllBlocksCleared\x01";
    const char *event = "{\"type\": \"cleared\"}";
    p3sched_kv_batch_result result;
    p3sched_buffer *json = NULL;
    OK(p3sched_kv_batch_decode(payload, sizeof payload - 1, 7, &json));
    CHECK(strstr(p3sched_buffer_data(json), "\"sequence\":7") != NULL);
    OK(p3sched_scheduler_apply_kv_batch(scheduler, "10.0.0.1:8000", p3sched_buffer_data(json),
                                        p3sched_buffer_length(json), &result));
    CHECK(result.fate == P3SCHED_KV_BATCH_FATE_APPLIED || result.fate == P3SCHED_KV_BATCH_FATE_GAP);
    OK(p3sched_scheduler_resume_kv_events(scheduler, "10.0.0.1:8000", 1, 3));
    OK(p3sched_scheduler_apply_kv_payload(scheduler, "10.0.0.1:8000", payload, sizeof payload - 1, 5, &result));
    CHECK(result.fate == P3SCHED_KV_BATCH_FATE_GAP && result.expected == 3);
    OK(p3sched_scheduler_apply_kv_payload(scheduler, "10.0.0.1:8000", payload, sizeof payload - 1, 3, &result));
    CHECK(result.fate == P3SCHED_KV_BATCH_FATE_APPLIED && result.expected == 0);
    OK(p3sched_scheduler_apply_kv_event(scheduler, "10.0.0.2:8000", event, strlen(event)));
    FAILS(INVALID_KV_EVENT, p3sched_kv_batch_decode("x", 1, 0, &json), "invalid KV event: ");
    FAILS(INVALID_KV_EVENT, p3sched_scheduler_apply_kv_event(scheduler, "10.0.0.2:8000", "{}", 2), "`type`");
    p3sched_buffer_free(json);
    p3sched_scheduler_free(scheduler);
}

static void snapshots(void) {
    p3sched_scheduler *scheduler = new_scheduler(NULL), *restarted = new_scheduler(NULL);
    p3sched_slice body = {CHAT, sizeof CHAT - 1};
    p3sched_decision *decision = NULL;
    p3sched_buffer *snapshot = NULL;
    OK(p3sched_scheduler_pick_body(scheduler, "/v1/chat/completions", &body, 1, NULL, &decision));
    p3sched_decision_free(decision);
    OK(p3sched_scheduler_snapshot(scheduler, &snapshot));
    OK(p3sched_scheduler_restore(restarted, p3sched_buffer_data(snapshot), p3sched_buffer_length(snapshot)));
    OK(p3sched_scheduler_pick_body(restarted, "/v1/chat/completions", &body, 1, NULL, &decision));
    CHECK(p3sched_decision_matched_tokens(decision) > 0);
    FAILS(INVALID_SNAPSHOT, p3sched_scheduler_restore(restarted, "x", 1), "invalid snapshot: ");
    p3sched_decision_free(decision);
    p3sched_buffer_free(snapshot);
    p3sched_scheduler_free(scheduler);
    p3sched_scheduler_free(restarted);
}

static void usage(void) {
    const char *answer = "{\"usage\":{\"prompt_tokens\":13,\"prompt_tokens_details\":{\"cached_tokens\":8}}}";
    p3sched_usage_scanner *scanner = NULL;
    p3sched_usage usage;
    OK(p3sched_usage_scanner_new(&scanner));
    OK(p3sched_usage_scanner_push(scanner, answer, 20));
    OK(p3sched_usage_scanner_push(scanner, answer + 20, strlen(answer) - 20));
    OK(p3sched_usage_scanner_finish(scanner, &usage));
    CHECK(usage.prompt_tokens.is_known && usage.prompt_tokens.tokens == 13);
    CHECK(usage.cached_tokens.is_known && usage.cached_tokens.tokens == 8);
    CHECK(!usage.completion_tokens.is_known);
    FAILS(NULL_POINTER, p3sched_usage_scanner_push(NULL, answer, 1), "`scanner`");
    p3sched_usage_scanner_free(scanner);
}

static void null_handles(void) {
    p3sched_scheduler_free(NULL);
    p3sched_decision_free(NULL);
    p3sched_buffer_free(NULL);
    p3sched_usage_scanner_free(NULL);
    CHECK(p3sched_decision_id(NULL) == 0 && p3sched_decision_endpoint(NULL) == NULL);
    CHECK(p3sched_decision_fallback_count(NULL) == 0 && p3sched_decision_fallback(NULL, 0) == NULL);
    CHECK(p3sched_decision_matched_tokens(NULL) == 0 && p3sched_decision_prompt_tokens(NULL) == 0);
    CHECK(p3sched_decision_json(NULL) == NULL && p3sched_decision_explanation_json(NULL) == NULL);
    CHECK(p3sched_decision_explanation_text(NULL) == NULL);
    CHECK(p3sched_buffer_data(NULL) == NULL && p3sched_buffer_length(NULL) == 0);
}

int main(void) {
    CHECK(strcmp(p3sched_last_error_message(), "") == 0);
    CHECK(strcmp(p3sched_version(), P3SCHED_VERSION) == 0);
    configurations();
    endpoints();
    picks();
    picks_without_a_body();
    load();
    kv_events();
    snapshots();
    usage();
    null_handles();
    return 0;
}
