"""The pages, one module each: the routes that its script uses. See `..page`."""
