"""Live replay: a trace's requests, at their times, against this cache or what users would pick instead."""
