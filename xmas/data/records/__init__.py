"""What a record says, in any format: turns, images, source, and what is wrong with it."""
