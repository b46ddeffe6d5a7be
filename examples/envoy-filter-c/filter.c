/* An HTTP filter for Envoy that picks the replica itself, with libp3sched inside: an example of how to put the library into
 * a filter of your own. It holds the body back, picks, names the host to Envoy, and reports how the request went.
 *
 * Configuration: the endpoints, separated by commas, and then, if wanted, the scheduler's configuration in JSON. */
#include <p3sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Envoy's C ABI, as far as it is used here (abi.h of 1.38 to 1.40) ---- */

/* Envoy's buffers have the layout of p3sched_slice, so that a body goes from one to the other as it is. */
typedef p3sched_slice buffer;
typedef struct header { buffer name, value; } header;
typedef void *envoy;

enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2 };
enum { RECEIVED_REQUEST_BODY = 0, BUFFERED_REQUEST_BODY = 1, RECEIVED_RESPONSE_BODY = 2 };
enum { CONTINUE = 0, STOP = 1, STOP_WITHOUT_BUFFERING = 3 };
enum { UPSTREAM_ADDRESS = 41 };

#define CALL(name) envoy_dynamic_module_callback_##name
#define HOOK(name) envoy_dynamic_module_on_##name

extern void CALL(log)(uint32_t level, buffer message);
extern bool CALL(http_get_header)(envoy, uint32_t kind, buffer name, buffer *value, size_t index, size_t *count);
extern size_t CALL(http_get_body_chunks_size)(envoy, uint32_t kind);
extern bool CALL(http_get_body_chunks)(envoy, uint32_t kind, buffer *chunks);
extern bool CALL(http_received_buffered_request_body)(envoy);
extern void CALL(http_set_buffer_limit)(envoy, uint64_t bytes);
extern bool CALL(http_set_upstream_override_host)(envoy, buffer host, bool strict);
extern bool CALL(http_filter_get_attribute_string)(envoy, uint32_t attribute, buffer *value);
extern void CALL(http_send_response)(envoy, uint32_t status, header *headers, size_t count, buffer body, buffer details);

/* ---- The filter ---- */

#define MAX_BODY_BYTES (64u << 20)
#define MAX_CHUNKS 4096

/* One request. The scheduler is what all share; any worker thread may use it at any time. */
typedef struct filter {
    const p3sched_scheduler *scheduler;
    p3sched_decision *decision;
    p3sched_usage_scanner *usage;
    char path[256];
    char served_by[64];
    bool settled, success, ended, streams, first_token_seen;
} filter;

static buffer text(const char *text) {
    return (buffer){text, strlen(text)};
}

/* Copies a header's value, cut to what fits; empty if there is none. */
static void copy_header(envoy request, uint32_t kind, const char *name, char *out, size_t size) {
    buffer value = {0};
    size_t count = 0;
    bool found = CALL(http_get_header)(request, kind, text(name), &value, 0, &count);
    snprintf(out, size, "%.*s", found ? (int)value.length : 0, found ? (const char *)value.data : "");
}

static void refuse(envoy request, filter *self, uint32_t status) {
    self->settled = true;
    header plain = {text("content-type"), text("text/plain")};
    CALL(http_send_response)(request, status, &plain, 1, text(p3sched_last_error_message()), text("p3sched"));
}

/* Appends the chunks of one kind; false if there are more than fit. */
static bool collect(envoy request, uint32_t kind, buffer *chunks, size_t *count) {
    size_t more = CALL(http_get_body_chunks_size)(request, kind);
    if (more > MAX_CHUNKS - *count) {
        return false;
    }
    if (more > 0 && CALL(http_get_body_chunks)(request, kind, chunks + *count)) {
        *count += more;
    }
    return true;
}

/* Picks with the body that Envoy holds, and names the host; true if the request may go on. */
static bool pick(envoy request, filter *self, bool with_body) {
    static _Thread_local buffer chunks[MAX_CHUNKS];
    size_t count = 0;
    if (with_body) {
        /* At the end of a stream the received part may be the buffered one. */
        bool same = CALL(http_received_buffered_request_body)(request);
        if (!collect(request, BUFFERED_REQUEST_BODY, chunks, &count) ||
            (!same && !collect(request, RECEIVED_REQUEST_BODY, chunks, &count))) {
            self->settled = true; /* too many pieces: Envoy's own policy serves it */
            return true;
        }
    }
    p3sched_status status =
        p3sched_scheduler_pick_body(self->scheduler, self->path, chunks, count, NULL, &self->decision);
    if (status == P3SCHED_STATUS_INVALID_REQUEST) {
        refuse(request, self, 400);
        return false;
    }
    if (status == P3SCHED_STATUS_OK) {
        CALL(http_set_upstream_override_host)(request, text(p3sched_decision_endpoint(self->decision)), false);
    } else {
        CALL(log)(3, text(p3sched_last_error_message())); /* a warning; Envoy's own policy serves it */
    }
    self->settled = true;
    return true;
}

/* Reports how the request went; only the first report counts. */
static void complete(filter *self) {
    if (self->decision == NULL) {
        return;
    }
    p3sched_outcome outcome = {0};
    p3sched_usage usage = {0};
    outcome.success = self->success && self->ended;
    if (self->usage && p3sched_usage_scanner_finish(self->usage, &usage) == P3SCHED_STATUS_OK) {
        outcome.prompt_tokens = usage.prompt_tokens;
        outcome.completion_tokens = usage.completion_tokens;
        outcome.cached_tokens = usage.cached_tokens;
    }
    outcome.served_by = self->served_by[0] ? self->served_by : NULL;
    p3sched_scheduler_complete(self->scheduler, p3sched_decision_id(self->decision), &outcome);
    p3sched_decision_free(self->decision);
    self->decision = NULL;
}

/* ---- What Envoy calls ---- */

const char *HOOK(program_init)(void) {
    return "v0.1.0";
}

/* The scheduler is the configuration; NULL refuses it. */
const void *HOOK(http_filter_config_new)(envoy config_env, buffer name, buffer settings) {
    (void)config_env, (void)name;
    p3sched_scheduler *scheduler = NULL;
    char *copy = strndup(settings.data, settings.length), *json = strchr(copy, '{'), *rest = NULL;
    p3sched_status status = p3sched_scheduler_new(json, json ? strlen(json) : 0, &scheduler);
    if (json) {
        *json = '\0';
    }
    for (char *host = strtok_r(copy, ", ", &rest); host && !status; host = strtok_r(NULL, ", ", &rest)) {
        status = p3sched_scheduler_add_endpoint(scheduler, host);
    }
    free(copy);
    if (status != P3SCHED_STATUS_OK) {
        CALL(log)(4, text(p3sched_last_error_message()));
        p3sched_scheduler_free(scheduler);
        return NULL;
    }
    return scheduler;
}

void HOOK(http_filter_config_destroy)(const void *scheduler) {
    p3sched_scheduler_free((p3sched_scheduler *)scheduler);
}

const void *HOOK(http_filter_new)(const void *scheduler, envoy request) {
    (void)request;
    filter *self = calloc(1, sizeof *self);
    if (self) {
        self->scheduler = scheduler;
    }
    return self;
}

void HOOK(http_filter_destroy)(const void *pointer) {
    filter *self = (filter *)pointer;
    complete(self);
    p3sched_usage_scanner_free(self->usage);
    free(self);
}

uint32_t HOOK(http_filter_request_headers)(envoy request, filter *self, bool end) {
    copy_header(request, REQUEST_HEADERS, ":path", self->path, sizeof self->path);
    CALL(http_set_buffer_limit)(request, MAX_BODY_BYTES);
    return end && pick(request, self, false) ? CONTINUE : STOP;
}

uint32_t HOOK(http_filter_request_body)(envoy request, filter *self, bool end) {
    if (self->settled) {
        return CONTINUE;
    }
    if (!end) {
        return STOP; /* and keep what came */
    }
    return pick(request, self, true) ? CONTINUE : STOP_WITHOUT_BUFFERING;
}

uint32_t HOOK(http_filter_request_trailers)(envoy request, filter *self) {
    return self->settled || pick(request, self, true) ? CONTINUE : STOP;
}

uint32_t HOOK(http_filter_response_headers)(envoy request, filter *self, bool end) {
    char status[8], type[64];
    buffer address = {0};
    self->ended = end;
    copy_header(request, RESPONSE_HEADERS, ":status", status, sizeof status);
    copy_header(request, RESPONSE_HEADERS, "content-type", type, sizeof type);
    self->success = status[0] == '2';
    self->streams = self->success && strncmp(type, "text/event-stream", 17) == 0;
    if (CALL(http_filter_get_attribute_string)(request, UPSTREAM_ADDRESS, &address)) {
        snprintf(self->served_by, sizeof self->served_by, "%.*s", (int)address.length, (const char *)address.data);
    }
    if (self->decision && self->success) {
        p3sched_usage_scanner_new(&self->usage);
    }
    return CONTINUE;
}

uint32_t HOOK(http_filter_response_body)(envoy request, filter *self, bool end) {
    static _Thread_local buffer chunks[MAX_CHUNKS];
    size_t count = 0;
    self->ended = end;
    if (!self->usage || !collect(request, RECEIVED_RESPONSE_BODY, chunks, &count) || count == 0) {
        return CONTINUE;
    }
    if (self->streams && !self->first_token_seen) {
        self->first_token_seen = true;
        p3sched_scheduler_first_token(self->scheduler, p3sched_decision_id(self->decision));
    }
    for (size_t i = 0; i < count; i++) {
        p3sched_usage_scanner_push(self->usage, chunks[i].data, chunks[i].length);
    }
    return CONTINUE;
}

void HOOK(http_filter_stream_complete)(envoy request, filter *self) {
    (void)request;
    complete(self);
}

uint32_t HOOK(http_filter_response_trailers)(envoy request, filter *self) {
    (void)request, self->ended = true;
    return CONTINUE;
}

/* Envoy asks every filter for these. They have nothing to do, whatever they are called with. */
#define UNUSED(name) void HOOK(name)(void) {}
UNUSED(http_filter_scheduled)
UNUSED(http_filter_http_callout_done)
UNUSED(http_filter_http_stream_headers)
UNUSED(http_filter_http_stream_data)
UNUSED(http_filter_http_stream_trailers)
UNUSED(http_filter_http_stream_complete)
UNUSED(http_filter_http_stream_reset)
UNUSED(http_filter_downstream_above_write_buffer_high_watermark)
UNUSED(http_filter_downstream_below_write_buffer_low_watermark)
