"""An API server: one client, caches that watches fill, the election of who may write."""
