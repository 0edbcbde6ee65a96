"""Where a student starts: its shape, and its weights from a checkpoint, as far as they fit or can be cut to fit."""
