/* kernel_speed.h: how fast each kernel of each ISA of this machine is, beside a limit measured in
 * turn with it. */
#ifndef UPG_RUNTIME_KERNEL_SPEED_H
#define UPG_RUNTIME_KERNEL_SPEED_H

#include "runtime/probe.h"

/** upg_probe_kernel. Errors: E_ARG past the last one, E_NOMEM. */
upg_status upg_kernel_speed_measure(upg_probe *probe, size_t index, upg_kernel_speed *speed,
                                    upg_error *err);

#endif
