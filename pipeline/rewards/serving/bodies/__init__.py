"""What requests and answers look like: our own, and those that clients of other servers send and read.

Imports pipeline.rewards.scoring and what it stands on.
"""
