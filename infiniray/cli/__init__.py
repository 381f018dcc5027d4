"""The command ``infiniray``. Commands import what they need when they run: ``--help`` does not wait for Ray."""
