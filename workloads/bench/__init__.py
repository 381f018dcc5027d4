"""The benchmark: this cache against what users would pick instead, in the same run; docs/performance.md explains it."""
