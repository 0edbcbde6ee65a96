"""Manifests, waves, labels and speech samples: everything that reads audio."""
