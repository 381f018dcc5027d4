"""A store behind a cache: a bucket, a directory, anything fsspec reaches. ``docs/backing.md`` says what is promised.

From the outside in: :mod:`.modes` is what the verbs mean, :mod:`.pending` the writes that the store does not have yet,
:mod:`.marks` how processes keep out of each other's way, :mod:`.store` what a store is, with one file for each kind.
"""
