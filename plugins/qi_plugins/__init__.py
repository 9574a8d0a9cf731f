"""The things: a folder a plugin. Each imports qi_core and nothing else of qi."""
