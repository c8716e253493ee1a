/* temp_folder.h: a folder for one test. All functions end the program when the system fails. */
#ifndef UPG_TESTS_TEMP_FOLDER_H
#define UPG_TESTS_TEMP_FOLDER_H

#include <stddef.h>

/** A new empty folder below $TMPDIR or /tmp; the caller calls remove_folder. */
char *make_folder(void);
/** Deletes the folder with the files in it (no folders in it) and frees the path. */
void remove_folder(char *folder);
/** folder/name, valid until the fourth call from here. */
const char *in_folder(const char *folder, const char *name);
/** Writes or replaces a whole file. */
void write_file(const char *path, const void *bytes, size_t size);
/** A whole file, NUL-terminated; the caller frees it. *size may be NULL. */
char *read_file(const char *path, size_t *size);

#endif
