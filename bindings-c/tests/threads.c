/* Many threads use one scheduler, and each sees its own error messages. */
#include "check.h"

#include <pthread.h>

#define THREADS 4
#define ROUNDS 200

static p3sched_scheduler *scheduler;

static void *pick_and_complete(void *argument) {
    size_t thread = (size_t)(uintptr_t)argument;
    char expected[32];
    snprintf(expected, sizeof expected, "`%zu`", 1000000 + thread);
    for (int round = 0; round < ROUNDS; round++) {
        char body[256];
        int length = snprintf(body, sizeof body, "{\"model\": \"m\", \"prompt\": \"%032d %zu\"}", round % 8, thread);
        p3sched_slice slice = {body, (size_t)length};
        p3sched_decision *decision = NULL;
        OK(p3sched_scheduler_pick_body(scheduler, "/v1/completions", &slice, 1, NULL, &decision));
        FAILS(UNKNOWN_REQUEST, p3sched_scheduler_first_token(scheduler, 1000000 + thread), expected);
        OK(p3sched_scheduler_first_token(scheduler, p3sched_decision_id(decision)));
        OK(p3sched_scheduler_complete(scheduler, p3sched_decision_id(decision), NULL));
        p3sched_decision_free(decision);
        CHECK(strstr(p3sched_last_error_message(), expected) != NULL);
    }
    return NULL;
}

int main(void) {
    OK(p3sched_scheduler_new(NULL, 0, &scheduler));
    OK(p3sched_scheduler_add_endpoint(scheduler, "10.0.0.1:8000"));
    OK(p3sched_scheduler_add_endpoint(scheduler, "10.0.0.2:8000"));
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, pick_and_complete, (void *)(uintptr_t)i) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    p3sched_buffer *stats = NULL;
    OK(p3sched_scheduler_stats(scheduler, &stats));
    CHECK(strstr(p3sched_buffer_data(stats), "\"picks\":800,") != NULL);
    CHECK(strstr(p3sched_buffer_data(stats), "\"requests_in_flight\":0,\"index\"") != NULL);
    p3sched_buffer_free(stats);
    p3sched_scheduler_free(scheduler);
    return 0;
}
