"""Functions as a service: invoking them, packaging the node agent, and ``local``, the embedded platform."""
