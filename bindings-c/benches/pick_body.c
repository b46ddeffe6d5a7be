/* Cost of a pick from C: pick_body BODY_FILE, with a chat body in the file.
 *
 * For every line with a number N on stdin it makes N picks in batches of 64 and answers the nanoseconds that they took
 * together. The requests of a batch are completed outside of the measured time. */
#define _POSIX_C_SOURCE 199309L
#include <inttypes.h>
#include <p3sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BATCH 64

static void check(p3sched_status status) {
    if (status != P3SCHED_STATUS_OK) {
        fprintf(stderr, "%s: %s\n", p3sched_status_name(status), p3sched_last_error_message());
        exit(1);
    }
}

static uint64_t nanoseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static size_t read_file(const char *path, char *buffer, size_t size) {
    FILE *file = fopen(path, "rb");
    size_t length = file ? fread(buffer, 1, size, file) : 0;
    if (!file || length == 0 || length == size) {
        fprintf(stderr, "expected a body of less than %zu bytes: %s\n", size, path);
        exit(1);
    }
    fclose(file);
    return length;
}

static uint64_t pick_batch(p3sched_scheduler *scheduler, const p3sched_slice *body, uint64_t count) {
    p3sched_decision *decisions[BATCH];
    uint64_t start = nanoseconds();
    for (uint64_t i = 0; i < count; i++) {
        check(p3sched_scheduler_pick_body(scheduler, "/v1/chat/completions", body, 1, NULL, &decisions[i]));
    }
    uint64_t elapsed = nanoseconds() - start;
    for (uint64_t i = 0; i < count; i++) {
        check(p3sched_scheduler_complete(scheduler, p3sched_decision_id(decisions[i]), NULL));
        p3sched_decision_free(decisions[i]);
    }
    return elapsed;
}

int main(int argc, char **argv) {
    static char bytes[1 << 20];
    if (argc != 2) {
        fprintf(stderr, "usage: pick_body BODY_FILE\n");
        return 2;
    }
    p3sched_slice body = {bytes, read_file(argv[1], bytes, sizeof bytes)};
    p3sched_scheduler *scheduler;
    check(p3sched_scheduler_new(NULL, 0, &scheduler));
    for (int host = 1; host <= 8; host++) {
        char name[32];
        snprintf(name, sizeof name, "10.0.0.%d:8000", host);
        check(p3sched_scheduler_add_endpoint(scheduler, name));
    }
    uint64_t picks;
    while (scanf("%" SCNu64, &picks) == 1) {
        uint64_t total = 0;
        for (uint64_t left = picks; left > 0;) {
            uint64_t count = left < BATCH ? left : BATCH;
            total += pick_batch(scheduler, &body, count);
            left -= count;
        }
        printf("%" PRIu64 "\n", total);
        fflush(stdout);
    }
    p3sched_scheduler_free(scheduler);
    return 0;
}
