"""The data plane's transport: orders out, portions back, between processes and machines."""
