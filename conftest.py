"""Settings for the development of this repository, which users of the package do not need."""

collect_ignore_glob = ["implementations/*", ".tox/*", "build/*"]
