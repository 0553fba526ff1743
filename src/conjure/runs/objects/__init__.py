"""Files by their digest in an object store that several machines share, and an index of them."""
