"""A build in the pinned image."""
