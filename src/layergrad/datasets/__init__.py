"""Instructions and their responses: sources, sampling, controls, audit."""
