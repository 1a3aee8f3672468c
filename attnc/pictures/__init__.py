"""Pictures of masks, drawn from the tiles that a plan visits."""
