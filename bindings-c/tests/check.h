/* Checks that end the program with the place and the reason. */
#ifndef CHECK_H
#define CHECK_H

#include <p3sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                                \
    do {                                                                                                                \
        if (!(condition)) {                                                                                             \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, p3sched_last_error_message());           \
            abort();                                                                                                    \
        }                                                                                                               \
    } while (0)

#define OK(call) CHECK((call) == P3SCHED_STATUS_OK)

#define FAILS(status, call, message)                                                                                    \
    do {                                                                                                                \
        CHECK((call) == P3SCHED_STATUS_##status);                                                                       \
        CHECK(strstr(p3sched_last_error_message(), message) != NULL);                                                   \
    } while (0)

#endif
