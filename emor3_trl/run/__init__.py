"""How a run is started and kept: command line, checks, plan, folder."""
