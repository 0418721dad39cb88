"""How fast AIME is on this machine: what ``aime bench`` measures, and how. `aime.bench.run.measure` is the way in."""
