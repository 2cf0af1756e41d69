"""How a run is started and kept: command line, help, checks, plan, start, folder."""
