"""What developing this repository needs, and nothing that its users would miss."""

collect_ignore_glob = ["implementations/*", ".tox/*", "build/*"]
