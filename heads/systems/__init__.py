"""Every system that is compared, one file each, behind the interface in `method`."""
