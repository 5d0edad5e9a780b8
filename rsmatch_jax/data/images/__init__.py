"""Picture files, zips, and the layouts of image collections."""
