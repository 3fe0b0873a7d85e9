"""One module a format; `job.convert.formats.registry` lists them."""
