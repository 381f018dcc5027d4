"""The embedded function platform: AWS Lambda's Invoke and function API on loopback, with real processes.

For development and tests, not for production. What it is faithful to, because the cache depends on it: one
invocation at a time per instance, a new instance when all are busy, frozen between invocations, reclaimed without
notice, a memory limit, a bandwidth shape, and billing by the millisecond.

Read :mod:`~infiniray.faas.local.instances` for the life of an instance, :mod:`~infiniray.faas.local.api` for what
boto3 sees.
"""
