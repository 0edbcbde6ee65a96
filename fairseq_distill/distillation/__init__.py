"""From hidden states to a loss: groups of layers, the teacher, the heads, the distances, where a student starts."""
