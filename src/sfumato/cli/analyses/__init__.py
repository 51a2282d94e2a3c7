"""The analyses of `sfumato explain`, one file each: what it is called, its arguments, and what it does with them."""
