"""Where bytes lie by digest: an object store that several machines share, and what is known of it."""
