"""Pure: specs to wanted resources, and the difference to what is there."""
