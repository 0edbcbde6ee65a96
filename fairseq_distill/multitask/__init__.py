"""Several tasks on one shared encoder: labels, sampling, augmentation, pooling and heads."""
