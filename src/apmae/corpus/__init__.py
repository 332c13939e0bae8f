"""Source files in: folders, files, zips and tars, read one file at a time."""
