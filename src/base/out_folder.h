/* out_folder.h: folders that appear whole or not at all.
 *
 * An upg_outfolder collects files in a temporary folder beside the target; the target's name
 * appears only through upg_outfolder_commit, when every file is synced. Discarding or failing
 * removes the temporary with all that is in it. */
#ifndef UPG_BASE_OUT_FOLDER_H
#define UPG_BASE_OUT_FOLDER_H

#include "base/file.h"

typedef struct upg_outfolder upg_outfolder;

/** Creates PATH's temporary. A folder that exists is refused unless it is empty. Errors: E_EXISTS,
 * E_IO, E_NOSPACE, E_NOT_FOUND (the folder above is missing), E_NOMEM. */
upg_status upg_outfolder_create(const char *path, upg_outfolder **folder, upg_error *err);
/** Creates a file in it; commit it before the folder. Errors: as upg_outfile_create. */
upg_status upg_outfolder_file(const upg_outfolder *folder, const char *name, upg_outfile **file,
                              upg_error *err);
/** Writes a whole small file. Errors: as upg_outfile_commit. */
upg_status upg_outfolder_put(const upg_outfolder *folder, const char *name, upg_span bytes,
                             upg_error *err);
/** Takes the folder: syncs and renames it. On failure nothing is left behind. Errors: E_EXISTS
 * (something of that name came meanwhile), E_IO. */
upg_status upg_outfolder_commit(upg_outfolder *folder, upg_error *err);
/** Removes the temporary and its files. NULL is fine. */
void upg_outfolder_discard(upg_outfolder *folder);

#endif
