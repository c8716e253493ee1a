/* feedback.h: encoding with error feedback (LDLQ): column by column in the rotated basis, last to
 * first, each column's target corrected for the errors of the columns already coded, so that errors
 * cancel where the input's components go together.
 *
 * With H + δI = L·D·Lᵀ, tr(E·H·Eᵀ) = Σ_j D_j·|Σ_{i≥j} E_i L_ij|², so T_j = W_j + Σ_{i>j} E_i L_ij
 * is coded and E_j = W_j − Ŵ_j. Chee, Cai, Kuleshov, De Sa: "QuIP", NeurIPS 2023, section 3; the
 * trellis as the quantiser: Tseng, Sun, Hou, De Sa: "QTIP", NeurIPS 2024. */
#ifndef UPG_COMPRESS_FEEDBACK_H
#define UPG_COMPRESS_FEEDBACK_H

#include "compress/encode.h"

/** One matrix to be coded against the second moments of its input. */
typedef struct upg_feedback_matrix {
    const upg_plan_unit *units; /* all of the matrix, rows ascending */
    uint32_t             n_units;
    float               *weights; /* f32 [n_rows][n_cols], rotated: targets in, decoded Ŵ out */
    upg_encoded_matrix   encoded; /* out: bits and scales; error2 and energy2 stay 0 */
} upg_feedback_matrix;

/** Encodes matrices that share an input; their units run in parallel, each by one thread.
 * lower  f32 [n_cols][n_cols]: L. On failure nothing is allocated. Errors: E_NOMEM, E_DATA (row too
 * large for fp16), E_CANCELLED. */
upg_status upg_feedback_encode(const upg_encode_context *context, const float *lower,
                               upg_feedback_matrix *matrices, uint32_t n_matrices, upg_error *err);
/** The same on the context's device, with the factor that is there; spread: the factor's, as the
 * device gave it. (feedback_device.c) */
upg_status upg_feedback_encode_on_device(const upg_encode_context *context, double spread,
                                         upg_feedback_matrix *matrices, uint32_t n_matrices,
                                         upg_error *err);
/** For both: room for a matrix's results; the stored scale of a row, whose variance feedback
 * widens; scales that fp16 cannot hold. */
upg_status upg_feedback_room(upg_feedback_matrix *matrix, upg_error *err);
uint16_t upg_feedback_scale(const upg_code *code, double spread, uint32_t n_cols, const float *row);
upg_status upg_feedback_check(const upg_feedback_matrix *matrix, upg_error *err);
/** Bytes that it takes at most for one matrix, beside its weights and L. */
uint64_t upg_feedback_memory(const upg_plan_unit *units, uint32_t n_units);

#endif
