/* machine.h: what this machine is and how fast it reads memory, which is what bounds decoding. */
#ifndef UPG_RUNTIME_MACHINE_H
#define UPG_RUNTIME_MACHINE_H

#include "upg/upg.h"

/** Fills all but struct_size. Errors: E_NOMEM. */
upg_status upg_machine_measure(upg_machine_info *info, upg_error *err);

#endif
