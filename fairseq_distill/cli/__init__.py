"""The command line `fairseq-distill`: a module for each command; nothing imports it."""
