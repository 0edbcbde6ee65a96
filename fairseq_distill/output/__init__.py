"""What commands write: files that appear whole or not at all, and pictures."""
