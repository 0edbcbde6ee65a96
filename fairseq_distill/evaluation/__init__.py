"""What a model reaches on labelled speech: probes on a frozen encoder, fine-tuned heads, speech recognition."""
