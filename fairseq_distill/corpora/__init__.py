"""Public corpora as they are unpacked from their downloads, written as fairseq manifests with labels beside them."""
