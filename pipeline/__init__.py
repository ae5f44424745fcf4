"""What touches text and backbones, and the stages of the command line as plain functions."""
