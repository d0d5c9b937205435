"""Images of a pool: where they are, what is wrong with them, their pixels."""
