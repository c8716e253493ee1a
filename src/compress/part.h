/* part.h: the parts of which an encoding tells its progress: embedding, layers, head. */
#ifndef UPG_COMPRESS_PART_H
#define UPG_COMPRESS_PART_H

#include "compress/calibrate.h"

/** Whether both belong to one part. a NULL: no. */
bool upg_part_is_same(const upg_weights *weights, const upg_matrix *a, const upg_matrix *b);
/** The meter's part is that of `matrix`: its weights are those that the sink has not. */
void upg_part_begin(upg_meter *meter, const upg_weights *weights, const upg_plan *plan,
                    const upg_encoded_sink *sink, const upg_matrix *matrix);

#endif
