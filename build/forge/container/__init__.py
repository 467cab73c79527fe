"""A build in the pinned image: what it needs, its sandbox, its life from creation to removal.

In: a job and limits. Out: the same folder that a build on the host leaves. The only room that
speaks to a container engine. May import manifest, pipeline and core.
"""
