"""Scripts that measure, listed in README.md. Each puts the project's root on its path, to import `benchmarks`."""
