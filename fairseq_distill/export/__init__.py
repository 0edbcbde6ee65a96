"""Students as files that other tools open without this package: a module for each format."""
