/* status.h: result codes, the error record and the library version.
 *
 * The one public header that the library's lowest layer may include; everything else of the API
 * stands in upg.h. */
#ifndef UPG_STATUS_H
#define UPG_STATUS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define UPG_API __attribute__((visibility("default")))
#define UPG_FN  UPG_API __attribute__((warn_unused_result)) upg_status
#else
#define UPG_API
#define UPG_FN upg_status
#endif

/** X(name, value, text). Values are ABI: never renumbered, never reused. */
#define UPG_STATUS_MAP(X)                                                                          \
    X(OK, 0, "success")                                                                            \
    X(E_ARG, 1, "an argument is out of range (a bug in the caller)")                               \
    X(E_STATE, 2, "not allowed in this state")                                                     \
    X(E_BUSY, 3, "the object is in use by another thread")                                         \
    X(E_BUFFER, 4, "the buffer is too small")                                                      \
    X(E_NOMEM, 10, "out of memory")                                                                \
    X(E_BUDGET, 11, "impossible within the size or memory budget")                                 \
    X(E_CONTEXT, 12, "the context is full")                                                        \
    X(E_IO, 20, "reading or writing failed")                                                       \
    X(E_NOT_FOUND, 21, "no such file")                                                             \
    X(E_EXISTS, 22, "the output exists")                                                           \
    X(E_NOSPACE, 23, "the disk is full")                                                           \
    X(E_FORMAT, 30, "the file is malformed")                                                       \
    X(E_VERSION, 31, "the file is of a newer format")                                              \
    X(E_CORRUPT, 32, "a checksum does not match")                                                  \
    X(E_UNSUPPORTED, 33, "valid, but not supported")                                               \
    X(E_DATA, 34, "the weights or the text hold invalid values")                                   \
    X(E_DEVICE, 40, "no such device, or its driver failed")                                        \
    X(E_DEVICE_LOST, 41, "the device was lost; open the model again")                              \
    X(E_CANCELLED, 50, "cancelled by the caller")                                                  \
    X(E_INTERNAL, 90, "a bug in upg; please report it")

typedef enum upg_status {
#define UPG_STATUS_ENUM(name, value, text) UPG_##name = value,
    UPG_STATUS_MAP(UPG_STATUS_ENUM)
#undef UPG_STATUS_ENUM
} upg_status;

/** What went wrong: names file, field, value, limit, and what to do. The caller's own memory. */
typedef struct upg_error {
    upg_status code;
    int32_t    os_errno;     /* 0 when the system was not involved */
    char       message[504]; /* NUL-terminated, never cut inside a character */
} upg_error;

/** A short text for the code; static, never NULL. */
UPG_API const char *upg_status_text(upg_status status);
/** True for failures that may pass by themselves: memory, disk space, a busy object. */
UPG_API bool upg_status_retryable(upg_status status);

#define UPG_VERSION "0.1.0"
/** Changes when compiled programs would break. */
#define UPG_ABI_VERSION 0
/** Version of the library that runs, which may differ from UPG_VERSION. */
UPG_API const char *upg_version(void);
/** UPG_ABI_VERSION of the library that runs; bindings compare it at import. */
UPG_API uint32_t upg_abi_version(void);

#ifdef __cplusplus
}
#endif
#endif
