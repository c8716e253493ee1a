/* cpu_plan.c: how the matrices of an op are divided among the workers.
 *
 * For few rows a piece is a run of whole blocks of stored bits, sized by bytes, since reading them
 * is the work. The FIR of a row needs L binary rows; the windows of a few rows (the gap) reach into
 * the piece before, and cpu_product.c computes those when both pieces are done. Every thread has a
 * share of consecutive pieces, so that it reads memory front to back. For many rows a piece is a
 * tile of matrix rows. */
#include "backend/cpu/cpu_backend.h"

/* Bytes of a piece. At 17 GB/s for each thread 16 KiB take a microsecond, twenty times what taking
 * one costs; 64 KiB keep the end of a region short. */
enum { PIECE_MIN_BYTES = 16 << 10, PIECE_MAX_BYTES = 64 << 10, PIECES_PER_THREAD = 8 };

static uint64_t coded_bytes(const upg_op *op)
{
    uint64_t bytes = 0;

    for (int w = 0; w < 3; w++)
        for (uint32_t i = 0; op->w[w] != NULL && i < op->w[w]->coded->n_bands; i++)
            bytes += 4 * upg_band_words(op->w[w]->coded->bands[i].n_binary, op->w[w]->n_cols);
    return bytes;
}

static uint32_t blocks_of_piece(const cpu_backend *b, const upg_op *op, uint32_t n_cols)
{
    uint64_t bytes = coded_bytes(op) / ((uint64_t)b->threads * PIECES_PER_THREAD);
    uint64_t block = 4 * (uint64_t)UPG_BLOCK_ROWS * upg_group_count(n_cols);

    bytes = bytes < PIECE_MIN_BYTES ? PIECE_MIN_BYTES : bytes;
    bytes = bytes > PIECE_MAX_BYTES ? PIECE_MAX_BYTES : bytes;
    return bytes < block ? 1 : (uint32_t)(bytes / block);
}

/* First row whose newest bit is binary row `place` or a later one. */
static uint32_t row_with_newest(const upg_band *band, uint64_t place)
{
    uint32_t low = 0, high = band->n_rows;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (upg_code_newest(&band->code, middle) < place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Pieces of one band; pieces == NULL only counts them. */
static uint32_t divide_band(const upg_matrix *m, uint32_t which, const upg_band *band,
                            uint32_t n_blocks, size_t u_offset, cpu_piece *pieces)
{
    uint32_t total = upg_block_count(band->n_binary), n = 0, done = 0;

    for (uint32_t begin = 0; begin < total; begin += n_blocks, n++) {
        uint32_t  end = total - begin < n_blocks ? total : begin + n_blocks;
        uint64_t  first = (uint64_t)begin * UPG_BLOCK_ROWS;
        cpu_piece piece = { m, band, which, begin, end, done, 0, 0, u_offset };

        piece.row0 = row_with_newest(band, first + band->code.length - 1);
        piece.row1 = row_with_newest(band, (uint64_t)end * UPG_BLOCK_ROWS);
        if (piece.row0 < done) /* rows start where the piece before ended, at the earliest */
            piece.row0 = done;
        if (piece.row1 < piece.row0) /* no window fits: the next piece's gap takes the rows */
            piece.row0 = piece.row1 = done;
        done = piece.row1;
        if (pieces != NULL)
            pieces[n] = piece;
    }
    return n;
}

static uint32_t divide_bits(const cpu_backend *b, const upg_op *op, cpu_piece *pieces)
{
    uint32_t n = 0;
    size_t   u_offset = 0;

    for (uint32_t w = 0; w < 3 && op->w[w] != NULL; w++) {
        const upg_matrix *m = op->w[w];
        uint32_t          n_blocks = blocks_of_piece(b, op, m->n_cols);

        for (uint32_t i = 0; i < m->coded->n_bands; i++) {
            const upg_band *band = &m->coded->bands[i];

            n += divide_band(m, w, band, n_blocks, u_offset, pieces ? pieces + n : NULL);
            u_offset += (size_t)upg_block_count(band->n_binary) * UPG_BLOCK_ROWS;
        }
    }
    return n;
}

static uint32_t divide_rows(const upg_matrix *m, uint32_t which, const upg_band *band,
                            uint32_t n_rows, cpu_piece *pieces)
{
    uint32_t n = 0;

    for (uint32_t row = 0; row < n_rows; row += CPU_TILE_ROWS, n++) {
        uint32_t end = n_rows - row < CPU_TILE_ROWS ? n_rows : row + CPU_TILE_ROWS;

        if (pieces != NULL)
            pieces[n] =
                (cpu_piece) { .matrix = m, .band = band, .which = which, .begin = row, .end = end };
    }
    return n;
}

static uint32_t divide_tiles(const upg_op *op, cpu_piece *pieces)
{
    uint32_t n = 0;

    for (uint32_t w = 0; w < 3 && op->w[w] != NULL; w++) {
        const upg_matrix *m = op->w[w];

        if (m->kind == UPG_MATRIX_DENSE) {
            n += divide_rows(m, w, NULL, m->n_rows, pieces ? pieces + n : NULL);
            continue;
        }
        for (uint32_t i = 0; i < m->coded->n_bands; i++)
            n += divide_rows(m, w, &m->coded->bands[i], m->coded->bands[i].n_rows,
                             pieces ? pieces + n : NULL);
    }
    return n;
}

/* Cuts the pieces into shares of equally many blocks. */
static void divide_shares(const cpu_backend *b, cpu_plan *plan)
{
    uint64_t n_blocks = 0, before = 0;
    uint32_t piece = 0;

    for (uint32_t i = 0; i < plan->n_bits; i++)
        n_blocks += plan->bits[i].end - plan->bits[i].begin;
    for (uint32_t t = 0; t < b->threads; t++) {
        for (; piece < plan->n_bits && before * b->threads < n_blocks * t; piece++)
            before += plan->bits[piece].end - plan->bits[piece].begin;
        plan->shares[t] = piece;
    }
    plan->shares[b->threads] = plan->n_bits;
}

static upg_status plan_op(cpu_backend *b, const upg_op *op, cpu_plan *plan, upg_error *err)
{
    if (op->w[0] == NULL || op->code == UPG_OP_EMBED)
        return UPG_OK;
    plan->n_tiles = divide_tiles(op, NULL);
    plan->tiles = upg_cpu_alloc(b, plan->n_tiles, sizeof *plan->tiles, err);
    if (plan->tiles == NULL)
        return UPG_E_NOMEM;
    (void)divide_tiles(op, plan->tiles);
    if (op->w[0]->kind != UPG_MATRIX_CODED)
        return UPG_OK;
    plan->n_bits = divide_bits(b, op, NULL);
    plan->bits = upg_cpu_alloc(b, plan->n_bits, sizeof *plan->bits, err);
    plan->sides = upg_cpu_alloc(b, plan->n_bits, sizeof *plan->sides, err);
    plan->shares = upg_cpu_alloc(b, (size_t)b->threads + 1, sizeof *plan->shares, err);
    if (plan->bits == NULL || plan->sides == NULL || plan->shares == NULL)
        return UPG_E_NOMEM;
    (void)divide_bits(b, op, plan->bits);
    divide_shares(b, plan);
    return UPG_OK;
}

upg_status upg_cpu_plan(cpu_backend *b, upg_error *err)
{
    upg_status st = UPG_OK;

    b->plans = upg_cpu_alloc(b, b->program->n_ops, sizeof *b->plans, err);
    b->shares = upg_cpu_alloc(b, b->threads, sizeof *b->shares, err);
    UPG_TRY(b->plans && b->shares ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        UPG_TRY(plan_op(b, &b->program->ops[i], &b->plans[i], err));
out:
    return st;
}
