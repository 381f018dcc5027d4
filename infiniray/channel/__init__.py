"""The direct way between a client process and a shard: a socket, and memory that both have mapped.

A Ray call costs about a millisecond, and a value that travels through Ray's store is copied and mapped anew each time.
Where a client can reach a shard's socket, small values travel in frames over it, and large ones in memory that the
shard owns and both have mapped. Everything else, and whatever cannot go this way, goes through Ray as before. There is
no Ray here.

========================  =====================================================================
:mod:`.frames`            what is said, as bytes in / messages out
:mod:`.proofs`            how both sides show that they know the shard's secret
:mod:`.shared`            the shard's memory: segments, slots, and who may write where
:mod:`.server`            the shard's end: who is connected
:mod:`.peer`              one connection at the shard's end, and one client process there
:mod:`.line`              one connection at the client's end: one request at a time
:mod:`.mapped`            the shard's memory at the client's end: views, and when they are over
:mod:`.client`            a client process's connections to one shard
:mod:`.waiting`           how threads and event loops wait for them
========================  =====================================================================
"""
