"""What shard and node say to each other: frames, the descriptions in them, and the proof of who speaks.

Shared with ``lambda_agent`` and zipped with it, so everything here is standard library, sans I/O and the same
bytes on both sides. Imports nothing of the rest of the project.
"""
