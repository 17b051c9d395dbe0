"""Where images come from: folders, archives, LMDB files, hub data sets, sets known by name."""
