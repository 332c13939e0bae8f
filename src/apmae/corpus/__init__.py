"""Source files in: folders, files and archives, read one file at a time."""
