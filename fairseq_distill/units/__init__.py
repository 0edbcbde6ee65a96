"""Units of a teacher: k-means of one of its layers, and the label files of masked prediction made with them."""
