"""What runs a mixer: binding sizes, choosing forms and backends, caching, streaming, explaining."""
