"""What touches texts and backbones, and the stages behind the commands.

Imports heads and cache.
"""
