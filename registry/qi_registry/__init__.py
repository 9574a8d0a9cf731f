"""Which thing goes by which name: finds plugins, reads recipes, assembles runs."""
