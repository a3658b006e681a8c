"""Rollouts, searches and scores on Ray's workers: processes on this machine, or on a cluster.

Whoever evaluates is a local object whose costly methods are answered by copies of it, one in each worker: the
``Objective`` of a search, the ``Dynamics`` behind a vector environment, the ``Evaluator`` of a table. Rows are split
into contiguous shares, and answers are joined in the old order, so that results are those of one process. Random
numbers are drawn by the caller alone. Ray (extra ``[ray]``) is imported when workers are started, not before.
"""
